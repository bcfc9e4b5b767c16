"""Reduction blocks, which compute ``out[spatial] = combine over reduced of term``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tvm
from tvm import tirx
from tvm_ffi import structural_equal, structural_map, structural_walk

from tvm_sparse.schedules.emit.expressions import maximum, minimum

if TYPE_CHECKING:
    from tvm.ir import Expr, TensorLoad, Var
    from tvm.s_tir import SBlock

Combine = Callable[["Expr", "Expr"], "Expr"]

COMBINES: dict[type, Combine] = {
    tirx.Add: lambda a, b: a + b,
    tirx.Mul: lambda a, b: a * b,
    tirx.Max: maximum,
    tirx.Min: minimum,
}

NUMBERS = re.compile(r"float(32|64)|u?int(8|16|32|64)")
"""The types whose values are reduced in registers; sums of shorter floats need a longer type."""

BLIND_TO_NAN = ("T_softmax_maxelem", "pool_max")
"""Blocks of maxima that may lose NaN: softmax reads the values again, which brings NaN back, and
ONNX Runtime's poolings lose it, too."""


@dataclass(frozen=True)
class Axis:
    """An axis of a block; its extent is an expression where it is known at run time only."""

    var: Var
    extent: Any

    @property
    def is_known(self) -> bool:
        """Whether the extent is a number."""
        return isinstance(self.extent, int)


@dataclass(frozen=True)
class Reduction:
    """A block that reduces numbers of one type.

    Attributes
    ----------
    name : str
        Name of the block.
    store : BufferStore
        The update ``out[...] = combine(out[...], term)``.
    combine : callable
        Sum, product, maximum or minimum of two values.
    init, term : Expr
        The value to start from, and the expression whose values are combined.
    spatial, reduced : tuple of Axis
        The axes of the output, in its order, and those that are reduced, in the order of the block.
    """

    name: str
    store: tirx.BufferStore
    combine: Combine
    init: Expr
    term: Expr
    spatial: tuple[Axis, ...]
    reduced: tuple[Axis, ...]

    @staticmethod
    def of(block: SBlock) -> Reduction | None:
        """Return a block's reduction, or None if it has another form."""
        update, init = block.body, block.init
        if not isinstance(update, tirx.BufferStore) or not isinstance(init, tirx.BufferStore):
            return None
        if type(update.value) not in COMBINES or not NUMBERS.fullmatch(str(update.buffer.dtype)):
            return None
        axes = {}
        for axis in block.iter_vars:
            extent = axis.dom.extent
            known = int(extent) if isinstance(extent, tirx.IntImm) else extent
            axes[axis.var] = (int(axis.iter_type), Axis(axis.var, known))
        spatial = [axes.pop(index)[1] for index in update.indices if index in axes]
        reduced = [axis for kind, axis in axes.values() if kind == tirx.IterVar.CommReduce]
        constant = [i for i in update.indices if isinstance(i, tirx.IntImm)]
        plain = len(constant) + len(spatial) == len(update.indices)
        terms = [
            other
            for other, self in (
                (update.value.b, update.value.a),
                (update.value.a, update.value.b),
            )
            if isinstance(self, tvm.ir.TensorLoad)
            and self.source.same_as(update.buffer)
            and structural_equal(self.indices, update.indices)
        ]
        if not plain or not terms or not reduced or len(reduced) != len(axes):
            return None
        combine = COMBINES[type(update.value)]
        if block.name_hint.startswith(BLIND_TO_NAN):
            combine = tirx.max
        return Reduction(
            block.name_hint,
            update,
            combine,
            init.value,
            terms[0],
            tuple(spatial),
            tuple(reduced),
        )

    @property
    def dtype(self) -> str:
        """The type of the accumulators and of the output."""
        return str(self.store.buffer.dtype)

    @property
    def iterations(self) -> Any:
        """Number of times that the term is computed."""
        return size(self.spatial) * size(self.reduced)

    def factors(self) -> tuple[Expr | None, Expr]:
        """Split a summed product into a factor without the last spatial axis, and the other."""
        if isinstance(self.term, tirx.Mul) and self.store.value.__class__ is tirx.Add:
            last = self.spatial[-1].var
            for scalar, vector in (
                (self.term.a, self.term.b),
                (self.term.b, self.term.a),
            ):
                if last not in variables(scalar):
                    return scalar, vector
        return None, self.term


def size(axes: Iterable[Axis]) -> Any:
    """Return the product of the extents."""
    total: Any = 1
    for axis in axes:
        total *= axis.extent
    return total


def places(axes: tuple[Axis, ...] | list[Axis], flat: Expr) -> dict[Var, Expr]:
    """Return the value of every axis at an index that counts through all of them."""
    result = {}
    for axis in reversed(axes):
        outermost = axis is axes[0]
        result[axis.var] = flat if outermost else flat % axis.extent
        flat = flat // axis.extent
    return result


def loads(node: Expr) -> list[TensorLoad]:
    """Return all loads in an expression or statement."""
    found: list[TensorLoad] = []
    structural_walk(node, (tvm.ir.TensorLoad, found.append))
    return found


def variables(node: Expr) -> Counter[Var]:
    """Count the uses of every variable."""
    found: Counter[Var] = Counter()
    structural_walk(node, (tvm.ir.Var, lambda var: found.update([var])))
    return found


def substitute(node: Expr, values: dict[Var, Expr]) -> Expr:
    """Replace variables by values."""
    return structural_map(node, (tvm.ir.Var, lambda var: values.get(var, var)))
