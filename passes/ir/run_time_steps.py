"""The scale and the zero point that an inference rounds a tensor to, as one tensor of two numbers.

The numbers are a scale and how far the zero point lies above the least integer of its type.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup

SCALE, ZERO = range(2)
_SAME_NUMBER = ("relax.reshape", "relax.astype")


def parts_of(
    steps: relax.Expr, emit: Callable[[relax.Expr], relax.Expr]
) -> tuple[relax.Expr, relax.Expr]:
    """Return the scale and the zero point, uint8, of the result of `dynamic_range`."""
    scale, zero = (
        emit(relax.op.reshape(emit(relax.op.strided_slice(steps, [0], [i], [i + 1])), ()))
        for i in (SCALE, ZERO)
    )
    return scale, emit(relax.op.astype(zero, "uint8"))


def steps_of_parts(
    x: relax.Expr, scale: relax.Expr, zero: relax.Expr, lookup: Lookup, emit: Emit
) -> operators.RunTimeSteps:
    """Return the numbers that `x` is rounded to by a scale and a zero point of 8 bits."""
    ranges = [_range_of(part, i, lookup) for i, part in ((SCALE, scale), (ZERO, zero))]
    if ranges[0] is not None and ranges[0].same_as(ranges[1]):
        source = lookup(ranges[0]).args[0]
        return operators.RunTimeSteps(ranges[0], source.same_as(x))
    least = int(np.iinfo(str(zero.ty.dtype)).min)
    zero = emit(relax.op.astype(emit(relax.op.reshape(zero, (1,))), ACTIVATIONS))
    above = emit(relax.op.subtract(zero, relax.const(np.full(1, least, ACTIVATIONS))))
    first = emit(relax.op.reshape(scale, (1,)))
    return operators.RunTimeSteps(emit(relax.op.concat([first, above], 0)), covers=False)


def _range_of(part: relax.Expr, place: int, lookup: Lookup) -> relax.Expr | None:
    """Return the range of which a number is the one at a place, as `parts_of` takes it."""
    call = lookup(part)
    while is_call_to(call, *_SAME_NUMBER):
        call = lookup(call.args[0])
    if not is_call_to(call, "relax.strided_slice"):
        return None
    if not is_call_to(lookup(call.args[0]), operators.DYNAMIC_RANGE.name):
        return None
    begin = call.args[2]
    return call.args[0] if int(begin[0].value) == place else None
