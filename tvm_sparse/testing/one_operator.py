"""Models of one operator, quantized or of another domain, compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import tvm_sparse
from tvm_sparse.testing.models import onnxruntime_outputs

Arrays = Mapping[str, Any]


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Arrays,
    output: int,
    tensors: Arrays,
    opset: int = 17,
) -> Path:
    """Write a model whose inputs have the types of arrays, and return `path`.

    Parameters
    ----------
    path : Path
        The file.
    nodes : sequence of onnx.NodeProto
        The nodes, of the standard, of ai.onnx.ml or of com.microsoft; they compute ``y``.
    inputs, tensors : mapping of str to array
        The inputs, and the constants.
    output : int
        The element type of ``y`` in ONNX.
    opset : int
        The version of the standard.
    """
    types = {k: helper.np_dtype_to_tensor_dtype(v.dtype) for k, v in inputs.items()}
    given = [helper.make_tensor_value_info(k, types[k], v.shape) for k, v in inputs.items()]
    result = helper.make_tensor_value_info("y", output, None)
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()]
    graph = helper.make_graph(nodes, "quantized", given, [result], constants)
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in ("ai.onnx.ml", "com.microsoft")]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def outputs(path: Path, inputs: Arrays) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return our output and that of ONNX Runtime without optimizations; nothing may fall back."""
    (want,) = onnxruntime_outputs(path, inputs).values()
    (got,) = tvm_sparse.compile(path, threads=2, fallback="off").run(inputs).values()
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    return got, want


def check(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Arrays,
    output: int,
    tensors: Arrays,
    step: float = 0.0,
    opset: int = 17,
) -> None:
    """Compare with ONNX Runtime: floats up to one part in 10,000, and up to a `step`.

    At most one value in ten may differ by a step. The arguments are those of `write`.
    """
    got, want = outputs(write(path, nodes, inputs, output, tensors, opset), inputs)
    wide = [a.astype("float64") for a in (got, want)]
    off = np.abs(wide[0] - wide[1])
    assert off.max() <= step + (1e-4 * np.abs(want).max() if want.dtype.kind == "f" else 0)
    assert (off > 1e-4 * np.abs(want).max()).mean() < 0.1
    assert np.ptp(want) > 0
