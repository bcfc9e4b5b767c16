"""The extents of tensors: the only place that reads a shape out of a Relax type."""

from __future__ import annotations

from tvm import relax, tirx


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


def known_shape(value: relax.Expr) -> tuple[int, ...]:
    """Return the extents of a tensor where they must be static.

    Raises
    ------
    ValueError
        If they are not.
    """
    shape = static_shape(value)
    if shape is None:
        raise ValueError(f"operators on panels need static shapes, got {value.ty}")
    return shape
