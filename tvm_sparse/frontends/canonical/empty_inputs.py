"""Inputs without values are constants."""

from __future__ import annotations

import logging
import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

_log = logging.getLogger("tvm_sparse")


def replace_empty_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let nodes read empty constants in place of inputs that have an extent of 0, in place.

    What depends on nothing else is then computed at compile time. The inputs stay in the model's
    signature. An exporter may have written 0 for a size that it did not know, so a warning says it.
    """
    graph = model.graph
    names = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [dim.dim_value for dim in dims]
        if math.prod(shape) or any(dim.dim_param for dim in dims):
            continue
        names[value.name] = f"{value.name}_without_values"
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        constant = numpy_helper.from_array(np.zeros(shape, dtype), names[value.name])
        graph.initializer.append(constant)
        _log.warning(
            "input %r has shape %s in the file, and so no values; if 0 stands for a size that was "
            "not known, give the shape",
            value.name,
            tuple(shape),
        )
    if names:
        _rename(graph, names)
    return model


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                _rename(inner, names)
