"""The extents of tensors: the only place that reads a shape out of a Relax type.

An extent is an integer, or an `Extent` where a size is known only when an inference runs. What asks
for `static_shape` works on tensors without such sizes only. What asks for `extents_of` takes both:
it never needs the hint of a size to be right, and writes extents into expressions by `lowered`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx

from tvm_sparse.sizes.extent import Extent, Quotient, Symbol, floor_divide

DEFAULT_HINT = 64
"""Elements that an axis is planned for if nobody says how many it has: the tokens of a sentence."""
BATCH_HINT = 1
"""The same for the first axis of an input: one sentence, one image."""

_hints: ContextVar[Mapping[str, int]] = ContextVar("hints")


@contextlib.contextmanager
def planned_for(hints: Mapping[str, int]) -> Iterator[None]:
    """Plan for these values of named sizes that no outer scope plans for.

    `DEFAULT_HINT` is the value of sizes that no scope names.
    """
    token = _hints.set({**hints, **_hints.get({})})
    try:
        yield
    finally:
        _hints.reset(token)


@contextlib.contextmanager
def planned_as(hints: Mapping[str, int]) -> Iterator[None]:
    """Plan for these values of named sizes, whatever outer scopes plan for."""
    token = _hints.set({**_hints.get({}), **hints})
    try:
        yield
    finally:
        _hints.reset(token)


def sizes_of(mod: tvm.IRModule) -> dict[str, int]:
    """Return the names of the sizes that the inputs of a module bring, with default hints."""
    hints: dict[str, int] = {}
    for func in mod.functions.values():
        for param in func.params if isinstance(func, relax.Function) else ():
            shape = getattr(param.ty, "shape", None)
            values = shape.values if isinstance(shape, relax.ShapeExpr) else ()
            for axis, size in enumerate(values):
                for var in relax.analysis.tir_vars_in_type(relax.TensorType([size], "int64")):
                    hints.setdefault(var.name, DEFAULT_HINT if axis else BATCH_HINT)
    return hints


@dataclass(frozen=True)
class VarSymbol(Symbol):
    """A size that is a variable in Relax. Two variables of one name are two sizes."""

    var: tirx.Var


def static_shape(value: relax.Expr) -> tuple[int, ...] | None:
    """Return the extents of a tensor as integers.

    Parameters
    ----------
    value : relax.Expr
        An expression whose type is inferred.

    Returns
    -------
    tuple of int or None
        None if `value` is not a tensor, or if an extent of it is not a known integer.
    """
    shape = getattr(value.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    extents = tuple(shape.values)
    if not all(isinstance(extent, int | tirx.IntImm) for extent in extents):
        return None
    return tuple(int(extent) for extent in extents)


def extents_of(value: relax.Expr) -> tuple[int, ...] | None:
    """Return the extents of a tensor; those that are known at run time only are an `Extent`.

    Returns
    -------
    tuple of int or None
        None if `value` is not a tensor, or if an extent of it is neither an integer nor made of
        named sizes by sums, products and whole quotients.
    """
    shape = getattr(value.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    extents = tuple(lifted(extent) for extent in shape.values)
    return None if None in extents else extents  # type: ignore[return-value]


def image_extents(value: relax.Expr) -> tuple[int, ...] | None:
    """Return the extents of a tensor of which the batch may be an `Extent`, and the height.

    The height is the axis 2 of a tensor with four axes; the batch is the first axis of all.

    Returns
    -------
    tuple of int or None
        None if there are other unknown extents.
    """
    extents = extents_of(value)
    return None if extents is None or not is_image_shape(extents) else extents


def is_image_shape(extents: Sequence[int]) -> bool:
    """Whether all extents but the batch, and the height of an image, are known integers."""
    inner = (*extents[1:2], *extents[3:]) if len(extents) == 4 else extents[1:]
    return not is_symbolic(inner)


def known_shape(value: relax.Expr) -> tuple[int, ...]:
    """Return the extents of a tensor where they must be static.

    Raises
    ------
    ValueError
        If they are not.
    """
    return _known(static_shape(value), value)


def known_extents(value: relax.Expr) -> tuple[int, ...]:
    """Return the result of `extents_of` where there must be one.

    Raises
    ------
    ValueError
        If there is none.
    """
    return _known(extents_of(value), value)


def known_size(size: Any) -> int:
    """Return the result of `lifted` where there must be one.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = lifted(size)
    if found is None:
        raise ValueError(f"{size} is no sum, product or quotient of named sizes")
    return found


def _known(shape: tuple[int, ...] | None, value: relax.Expr) -> tuple[int, ...]:
    if shape is None:
        raise ValueError(f"operators on panels need other shapes, got {value.ty}")
    return shape


def lifted(size: Any) -> int | None:
    """Return an integer, or an expression of a type or an attribute, as an extent."""
    if isinstance(size, int | tirx.IntImm):
        return int(size)
    if isinstance(size, tirx.Var):
        hint = _hints.get({}).get(size.name, DEFAULT_HINT)
        return Extent.of(VarSymbol(size.name, hint, size))
    if not isinstance(size, tirx.Add | tirx.Sub | tirx.Mul | tirx.FloorDiv | tirx.FloorMod):
        return None
    a, b = lifted(size.a), lifted(size.b)
    if a is None or b is None:
        return None
    if isinstance(size, tirx.Add):
        return a + b
    if isinstance(size, tirx.Sub):
        return a - b
    if isinstance(size, tirx.Mul):
        return a * b
    quotient = floor_divide(a, b)
    return quotient if isinstance(size, tirx.FloorDiv) else a - quotient * b


def lowered(size: int) -> Any:
    """Return an extent as an expression of Relax's variables; an integer stays one."""
    if not isinstance(size, Extent):
        return size
    total: Any = None
    for factors, coefficient in size.terms.items():
        product: Any = tirx.IntImm("int64", coefficient)
        for factor in factors:
            product = _of_factor(factor) if _is_one(product) else product * _of_factor(factor)
        total = product if total is None else total + product
    return total


def _is_one(product: Any) -> bool:
    return isinstance(product, tirx.IntImm) and int(product) == 1


def _of_factor(factor: Any) -> Any:
    if isinstance(factor, Quotient):
        return tirx.floordiv(*(_int64(lowered(s)) for s in (factor.dividend, factor.divisor)))
    return factor.var


def _int64(size: Any) -> Any:
    return tirx.IntImm("int64", size) if isinstance(size, int) else size


def reshaped(value: relax.Expr, shape: Sequence[int]) -> relax.Call:
    """Return `value` in a shape whose extents may be symbolic."""
    return relax.op.reshape(value, [lowered(extent) for extent in shape])


def broadcast(value: relax.Expr, shape: Sequence[int]) -> relax.Call:
    """Return `value` broadcast to a shape whose extents may be symbolic."""
    return relax.op.broadcast_to(value, [lowered(extent) for extent in shape])


def is_symbolic(shape: Sequence[int]) -> bool:
    """Whether an extent of a shape is known only at run time."""
    return any(isinstance(extent, Extent) for extent in shape)
