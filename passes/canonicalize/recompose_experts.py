r"""The product of rows and weights that are chosen for each => expert_linear.

.. math::

    \mathrm{take}(W, e)\, x \to \mathrm{expert\_linear}(x, e, W)

:math:`W` is a constant, ``[experts, N, K]`` or transposed, and each index :math:`e` chooses the
weight of one row. Executed as it is written, the product copies a weight for each row. PyTorch's
exporter writes the experts of transformers so (``experts_implementation="batched_mm"``).
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.sizes.expert_linear import ExpertLinear

# Runs after `CheckIndices`, which makes `take` clip indices that were checked.


@tvm.transform.module_pass(opt_level=0, name="RecomposeExperts")
class RecomposeExperts:
    """Multiply rows by the weights of their experts without copies of the weights."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with layers of experts."""
        return rewrite_calls(mod, _experts)


def _experts(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.matmul"):
        return None
    shape = static_shape(call)
    for side, other in ((0, 1), (1, 0)):
        taken = _taken(call.args[side], lookup)
        rows = static_shape(call.args[other])
        # The other operand is a column behind a weight, and a row before it.
        if taken is None or rows is None or shape is None or len(rows) < 2:
            continue
        if rows[-1 if side == 0 else -2] != 1 or str(call.args[other].ty.dtype) != ACTIVATIONS:
            continue
        weight, indices, is_turned = taken
        chosen, k = static_shape(call.args[side]), rows[-2 if side == 0 else -1]
        chosen = None if chosen is None else chosen[:-2]
        if chosen is None or shape[:-2] != chosen or math.prod(chosen) == 0:
            continue
        # A column is multiplied by [N, K] as it is stored, a row by [K, N].
        array = weight.value.numpy()
        if is_turned == (side == 0):
            array = array.transpose(0, 2, 1)
        experts, n, _ = array.shape
        problem = ExpertLinear(math.prod(chosen), experts, n, k)
        x = call.args[other]
        if rows[:-2] != chosen:
            x = emit(relax.op.broadcast_to(x, (*chosen, *rows[-2:])))
        x = emit(relax.op.reshape(x, (problem.rows, k)))
        of = emit(relax.op.astype(emit(relax.op.reshape(indices, (problem.rows,))), "int64"))
        stored = relax.const(np.ascontiguousarray(array))
        product = emit(operators.expert_linear(x, of, [stored], problem))
        return relax.op.reshape(product, shape)
    return None


def _taken(value: relax.Expr, lookup: Lookup) -> tuple[relax.Constant, relax.Expr, bool] | None:
    """Return the weights, the indices that choose among them, and whether they are transposed."""
    call, is_turned = lookup(value), False
    if is_call_to(call, "relax.permute_dims"):
        axes = call.attrs.axes
        rank = int(call.args[0].ty.ndim)
        order = list(reversed(range(rank))) if axes is None else [int(axis) for axis in axes]
        if order != [*range(rank - 2), rank - 1, rank - 2]:
            return None
        call, is_turned = lookup(call.args[0]), True
    if is_call_to(call, "relax.gather_nd"):
        places = static_shape(call.args[1])
        if int(call.attrs.batch_dims) != 0 or not places or places[-1] != 1:
            return None
    elif not is_call_to(call, "relax.take") or call.attrs.mode != "clip" or call.attrs.axis != 0:
        return None
    weight, indices = call.args
    is_stack = isinstance(weight, tvm.ir.GenericConst) and len(weight.value.shape) == 3
    if not is_stack or str(weight.ty.dtype) != ACTIVATIONS or 0 in weight.value.shape:
        return None
    return weight, indices, is_turned
