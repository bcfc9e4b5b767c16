"""The inner loop of weights that are packed as `WindowSparse`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.formats.windows import WINDOWS
from tvm_sparse.schedules.emit.buffers import Registers, vector

if TYPE_CHECKING:
    from tvm.ir import Expr

WINDOW_ARRAYS = ("starts", "windows", "places", "values")
"""The arrays of a `WindowSparse`, in the order of a kernel's arguments."""

_PERMUTATIONS = {16: "llvm.x86.avx512.vpermi2var.ps.512", 8: "llvm.x86.avx2.permps"}
"""Permutations of vectors of so many lanes; they ignore the high bits of a place."""


def multiply_windows(
    steps: tuple[Expr, Expr],
    arrays: Sequence[Expr],
    part: Callable[[int, Expr], Expr],
    rows: int,
    vectors: int,
    sums: Registers,
) -> None:
    """Add the products of some rows and the steps of a tile to `sums`.

    Parameters
    ----------
    steps : tuple of Expr
        The first step, and the one behind the last.
    arrays : sequence of Buffer
        The `windows`, `places` and `values` of the weight.
    part : callable
        ``part(row, place)`` is the vector of a row's factors that begins at a place.
    rows, vectors : int
        Rows, and vectors of a step.
    sums : Registers
        Holds `vectors` vectors of each row.
    """
    windows, places, values = arrays
    width = sums.lanes
    lanes = vector(T.int64(0), width)
    start, end = steps
    with T.serial(T.int64(0), end - start) as i:
        step = T.bind(start + i)
        window = T.bind(T.Cast("int64", windows[step]))
        word = T.bind(places[step, lanes])
        place_of_vector = [
            T.bind(T.shift_right(word, T.Broadcast(T.int32(8 * v), width))) if v else word
            for v in range(vectors)
        ]
        for row in range(rows):
            first, *others = (
                T.bind(part(row, window + ahead)) for ahead in range(0, WINDOWS[width], width)
            )
            for v, place in enumerate(place_of_vector):
                factors = T.call_llvm_intrin(
                    f"float32x{width}", _PERMUTATIONS[width], first, place, *others
                )
                s = row * vectors + v
                sums[s] = sums[s] + factors * values[step, v, lanes]
