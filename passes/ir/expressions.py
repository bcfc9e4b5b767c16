"""Questions about a single Relax expression: which operator it calls, which constant it is."""

from __future__ import annotations

from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax


def is_call_to(value: relax.Expr | None, *names: str) -> bool:
    """Whether `value` is a call to one of the operators called `names`, as ``relax.add``."""
    return (
        isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name in names
    )


def uniform_value(value: relax.Expr) -> float | None:
    """Return the number that a constant holds in each of its elements, or None."""
    if not isinstance(value, tvm.ir.GenericConst):
        return None
    array = value.value.numpy()
    if array.size == 0 or array.dtype.kind not in "fiu" or (array != array.flat[0]).any():
        return None
    return float(array.flat[0])


def constant_rank(value: relax.Expr) -> int | None:
    """Return the number of axes of a constant, or None for everything else."""
    return len(value.value.shape) if isinstance(value, tvm.ir.GenericConst) else None


def integers(argument: relax.Expr) -> list[int] | None:
    """Return the numbers of a tuple of constant integers, or None for everything else."""
    fields = argument.fields if isinstance(argument, relax.Tuple) else [None]
    known = [int(field) for field in fields if isinstance(field, tvm.tirx.IntImm)]
    return known if len(known) == len(fields) else None


def of_channels(constant: relax.Expr, channels: int, rank: int) -> NDArray[Any] | None:
    """Return the number, or the number of each channel, that a constant is, or None.

    Parameters
    ----------
    constant : relax.Expr
        A constant operand beside images; it may lack their first axes.
    channels, rank : int
        The channels and the number of axes of the images.

    Returns
    -------
    numpy.ndarray or None
        ``()`` or ``(channels,)``.
    """
    array = constant.value.numpy()
    if array.size == 1:
        return array.reshape(())
    places = (channels, *[1] * (rank - 2))
    is_of_channels = array.shape[1 - rank :] == places and array.size == channels
    return array.reshape(channels) if is_of_channels else None
