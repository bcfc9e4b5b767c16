"""What follows from a mask of tokens: tensors with one value where the mask is 0, another where 1.

Exporters write a mask ``(batch, tokens)`` of zeros and ones as a bias of attention, and as a factor
of the tokens that are averaged. They reshape it, repeat it, gather its elements at their own places
and compute with each element by itself. So an element of the result depends on one element of the
mask. Which one is a `View` of the mask, and its two possible values are computed here by NumPy.
This is a proof for all sizes, whichever operators the exporter chose.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.places import Places, broadcast_view, same
from tvm_sparse.passes.ir.rewriting import Lookup
from tvm_sparse.passes.ir.shapes import extents_of
from tvm_sparse.passes.ir.view_chains import RESHAPING
from tvm_sparse.passes.ir.views import View

_BY_NAME: Mapping[str, Callable[..., Any]] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul,
    "divide": operator.truediv, "negative": operator.neg,
    "equal": operator.eq, "not_equal": operator.ne, "less": operator.lt,
    "less_equal": operator.le, "greater": operator.gt, "greater_equal": operator.ge,
    "minimum": np.minimum, "maximum": np.maximum, "where": np.where,
    "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_not": np.logical_not,
}  # fmt: skip
FUNCTIONS = {f"relax.{name}": function for name, function in _BY_NAME.items()}
"""The elementwise operators of masks, as functions of NumPy's numbers."""


@dataclass(frozen=True)
class Masked:
    """A tensor of which each element depends on one element of a mask.

    Attributes
    ----------
    view : View or None
        The elements of the mask; None for a constant, which depends on no mask.
    at_masked, at_other : numpy scalar
        The value where the mask is 0, and where it is 1.
    """

    view: View | None
    at_masked: Any
    at_other: Any


class Masks:
    """Reads what depends on inputs that may be masks.

    Parameters
    ----------
    candidates : collection of relax.Var
        The inputs ``(batch, tokens)``.
    lookup : callable
        Returns the expression that a variable is bound to.
    """

    def __init__(self, candidates: Collection[relax.Var], lookup: Lookup) -> None:
        self.candidates, self.lookup = candidates, lookup
        self.places = Places(lookup)
        self._known: dict[relax.Var, Masked | None] = {}

    def read(self, value: relax.Expr) -> Masked | None:
        """Return what is known of a tensor, or None if an element depends on anything else."""
        if isinstance(value, tvm.ir.GenericConst):
            number = _number(value)
            return None if number is None else Masked(None, number, number)
        if not isinstance(value, relax.Var):
            return None
        if value not in self._known:
            self._known[value] = self._read(value)
        return self._known[value]

    def _read(self, value: relax.Var) -> Masked | None:
        view = View.whole(value) if value in self.candidates else None
        if view is not None:
            zero, one = np.array([0, 1]).astype(str(value.ty.dtype))
            return Masked(view, zero, one)
        call, shape = self.lookup(value), extents_of(value)
        if not isinstance(call, relax.Call) or shape is None:
            return None
        if is_call_to(call, "relax.astype"):
            return self._computed(call, shape, lambda x: x)
        if is_call_to(call, *FUNCTIONS):
            return self._computed(call, shape, FUNCTIONS[call.op.name])
        found = self.read(call.args[0]) if call.args else None
        if found is None or found.view is None:
            return found if is_call_to(call, "relax.broadcast_to", *RESHAPING) else None
        seen = None
        if is_call_to(call, *RESHAPING):
            seen = found.view.reshape(shape)
        elif is_call_to(call, "relax.broadcast_to"):
            seen = broadcast_view(found.view, shape)
        elif is_call_to(call, "relax.take", "relax.gather_nd"):
            seen = self.places.gathered(found.view, call)
        return None if seen is None else replace(found, view=seen)

    def _computed(
        self, call: relax.Call, shape: Sequence[int], function: Callable[..., Any]
    ) -> Masked | None:
        """Return a function of each element."""
        operands = [self.read(arg) for arg in call.args]
        known = [operand for operand in operands if operand is not None]
        views = [broadcast_view(m.view, shape) for m in known if m.view is not None]
        if len(known) < len(operands) or not views or not all(same(v, views[0]) for v in views):
            return None
        dtype = str(call.ty.dtype)
        with np.errstate(all="ignore"):
            masked, other = (
                np.asarray(function(*numbers)).astype(dtype)[()]
                for numbers in (
                    [operand.at_masked for operand in known],
                    [operand.at_other for operand in known],
                )
            )
        return None if views[0] is None else Masked(views[0], masked, other)


def _number(value: tvm.ir.GenericConst) -> Any:
    """Return the number that a constant holds in each of its elements, or None."""
    array = value.value.numpy()
    if array.dtype.kind == "b":
        return array.flat[0] if array.size and (array == array.flat[0]).all() else None
    return None if uniform_value(value) is None else array.flat[0]
