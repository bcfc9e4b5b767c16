"""matmul(w, x) => conv1d(x, w), for a pruned w

A weight on the left of a product mixes the rows of `x`, and leaves its columns apart: so do layers
that mix tokens, and those of graphs. It is a convolution of one axis with windows of one value: the
rows are channels, and the columns pixels. Of few columns, it is the product of the transposed.
Kernels of products take weights on the right only.

Dense weights stay where they are: they would gain nothing.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.formats.density import density_of
from tvm_sparse.layer_report import PRUNED, SMALLEST
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.ir.shapes import static_shape

LEAST_PIXELS = 16
"""Columns of `x` from which on they fill the lanes of a panel."""


@tvm.transform.module_pass(opt_level=0, name="MoveLeftWeights")
class MoveLeftWeights:
    """Move pruned weights from the left of products to where kernels take them."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without pruned weights on the left."""
        return rewrite_layers(mod, _moved)


def _moved(call: relax.Call, name: str, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.matmul") or call.ty.dtype != ACTIVATIONS:
        return None
    weight, x = call.args
    shape, result = static_shape(x), static_shape(call)
    if not isinstance(weight, tvm.ir.GenericConst) or shape is None or result is None:
        return None
    array = weight.value.numpy()
    if len(shape) < 2 or array.ndim < 2 or math.prod(array.shape[:-2]) != 1:
        return None
    if array.size < SMALLEST or density_of(array) > PRUNED:
        return None
    rows, inner = array.shape[-2:]
    images = math.prod(shape[:-2])
    x = emit(relax.op.reshape(x, (images, inner, shape[-1])))
    if shape[-1] < LEAST_PIXELS:
        matrix = relax.const(array.reshape(rows, inner).T.copy())
        turned = emit(relax.op.permute_dims(x, [0, 2, 1]))
        y = emit(relax.op.matmul(turned, matrix), name)
        y = emit(relax.op.permute_dims(y, [0, 2, 1]))
    else:
        y = emit(relax.op.nn.conv1d(x, relax.const(array.reshape(rows, inner, 1))), name)
    return relax.op.reshape(y, result)
