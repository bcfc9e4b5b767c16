"""Runs nodes by ONNX Runtime, to learn the values of a random graph while it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_sparse.onnx_runtime import exact_options, onnxruntime

Array = NDArray[Any]

MICROSOFT = "com.microsoft"
"""The domain of the operators of ONNX Runtime's own."""


class Unfit(Exception):
    """A rule does not fit the graph, such as a convolution where there is no image."""


def opsets(opset: int) -> list[onnx.OperatorSetIdProto]:
    """Return the versions of the operators of a model."""
    return [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]


def run_nodes(
    nodes: Sequence[onnx.NodeProto], feeds: Mapping[str, Array], outputs: Sequence[str], opset: int
) -> list[Array]:
    """Run nodes by ONNX Runtime without optimizations, and return some of their results.

    Raises
    ------
    Unfit
        If ONNX Runtime cannot run the nodes.
    """
    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "nodes", infos, results)
    model = helper.make_model(graph, opset_imports=opsets(opset), ir_version=8)
    options = exact_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return [np.asarray(array) for array in session.run(list(outputs), dict(feeds))]
    # ONNX Runtime's errors share no base class below Exception.
    except Exception as error:
        raise Unfit(str(error).strip().splitlines()[0]) from None
