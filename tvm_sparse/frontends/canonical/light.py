"""Tools of ONNX copy a model as one message of at most 2 GB: they work without large weights."""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx
from onnx.external_data_helper import uses_external_data

SMALLEST = 1024
"""Bytes from which on a weight is large; shapes and axes, which tools read, are smaller."""


def with_light_weights(
    model: onnx.ModelProto,
    change: Callable[[onnx.ModelProto], onnx.ModelProto],
    large: Collection[str] | None = None,
) -> onnx.ModelProto:
    """Return what `change` makes of a model, while large weights of the main graph are inputs.

    Parameters
    ----------
    model : onnx.ModelProto
        Stays as it is.
    change : callable
        Returns a changed model; it may keep the names of large weights only.
    large : collection of str, optional
        The names of the weights; by default all from `SMALLEST` bytes on, and external ones.
    """
    if large is None:
        large = {
            tensor.name
            for tensor in model.graph.initializer
            if tensor.ByteSize() >= SMALLEST or uses_external_data(tensor)
        }
    weights = [tensor for tensor in model.graph.initializer if tensor.name in large]
    changed = change(without_weights(model, large))
    inputs = [value for value in changed.graph.input if value.name not in large]
    del changed.graph.input[:]
    changed.graph.input.extend(inputs)
    changed.graph.initializer.extend(weights)
    return changed


def without_weights(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a model whose named weights are inputs, behind its other inputs."""
    weights = [tensor for tensor in model.graph.initializer if tensor.name in names]
    light = onnx.ModelProto()
    for part in ("ir_version", "producer_name", "producer_version", "domain", "model_version"):
        setattr(light, part, getattr(model, part))
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.initializer.extend(t for t in model.graph.initializer if t.name not in names)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in weights
    )
    return light
