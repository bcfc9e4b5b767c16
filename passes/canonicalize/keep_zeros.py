"""x * 0 => x * [0], and x / 0, 0 / x likewise

TVM writes a number without axes into the arithmetic of a function. There it replaces ``x * 0`` by
0, which is wrong for NaN and infinities, and refuses ``x / 0``. A tensor with an axis is read from
memory.

Runs before constants are folded, and again before operators are lowered: on panels, an operand of
one element has no axis.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import constant_rank, is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of

DIVISIONS = ("relax.divide", "relax.floor_divide", "relax.mod", "relax.floor_mod")


@tvm.transform.module_pass(opt_level=0, name="KeepZeros")
class KeepZeros:
    """Give the zeros that tensors are multiplied with or divided by an axis."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without products with the number 0, and without divisions by it."""
        return rewrite_calls(mod, _keep)


def _keep(call: relax.Call, _lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.multiply", *DIVISIONS) or not extents_of(call):
        return None
    args = [_with_axis(arg) for arg in call.args]
    if all(new is old for new, old in zip(args, call.args, strict=True)):
        return None
    return relax.Call(call.op, args, call.attrs)


def _with_axis(value: relax.Expr) -> relax.Expr:
    if constant_rank(value) != 0 or uniform_value(value) != 0:
        return value
    zero = value.value.numpy().reshape(1)
    return relax.const(zero, str(zero.dtype))  # TVM would narrow 64 bits to 32
