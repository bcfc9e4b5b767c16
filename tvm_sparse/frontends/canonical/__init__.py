"""The canonical form of an ONNX model, before ONNX Runtime simplifies it and TVM imports it.

`canonical` is the table of contents: each step is a file, and a step changes nothing in a model
that does not need it. What a single node says about its attributes is not rewritten here:
`tvm_sparse.frontends.converters` reads it where the shapes are known.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from tvm_sparse.frontends.canonical.block_constants import dequantize_constants
from tvm_sparse.frontends.canonical.block_products import multiply_blocks
from tvm_sparse.frontends.canonical.control_flow import write_out
from tvm_sparse.frontends.canonical.empty_inputs import replace_empty_inputs
from tvm_sparse.frontends.canonical.empty_operands import drop_empty_operands
from tvm_sparse.frontends.canonical.functions import inline_functions
from tvm_sparse.frontends.canonical.opset import raise_opset
from tvm_sparse.frontends.canonical.sparse_tensors import make_dense


def canonical(
    model: onnx.ModelProto, folder: Path, is_converted: Callable[[onnx.NodeProto], bool]
) -> onnx.ModelProto:
    """Return the canonical form of a model, which may be the same object.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, whose inputs have static shapes.
    folder : Path
        The folder that the locations of external weights are relative to.
    is_converted : callable
        Returns whether a node can be compiled, as far as its operator tells.

    Raises
    ------
    ModelError
        If a step cannot be done.
    """
    model = make_dense(model, folder)
    model = inline_functions(model)
    model = raise_opset(model)
    model = multiply_blocks(model, folder)
    model = dequantize_constants(model, folder)
    model = replace_empty_inputs(model)
    model = write_out(model, folder, is_converted)
    return drop_empty_operands(model)
