"""float16 values of two channels as pairs of bfloat16 values, side by side in 32 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from tvm.ir import Expr

PAIRS = 16
"""Pairs of a vector of 512 bits."""


def pairs_of(even: Expr, odd: Expr) -> list[Expr]:
    """Return the pairs ``(even[i], odd[i])``, rounded to the nearest bfloat16, ties to even.

    Parameters
    ----------
    even, odd : Expr
        float16 vectors of `PAIRS` lanes or a multiple of that.

    Returns
    -------
    list of Expr
        uint32 vectors of `PAIRS` pairs; the value of `even` is in the lower half of each.
    """
    lanes = even.ty.dtype.lanes
    even, odd = T.bind(even), T.bind(odd)
    return [_rounded(_interleaved(even, odd, start)) for start in range(0, lanes, PAIRS)]


def bfloat16_of(halves: Expr) -> Expr:
    """Return a float16 vector of 16 or 32 lanes as bits of bfloat16, rounded likewise."""
    lanes = halves.ty.dtype.lanes
    if lanes == 2 * PAIRS:
        return T.reinterpret(f"uint16x{lanes}", _rounded(halves))
    halves = T.bind(halves)
    doubled = _rounded(T.Shuffle([halves, halves], list(range(2 * PAIRS))))
    return T.Shuffle([T.reinterpret(f"uint16x{2 * PAIRS}", doubled)], list(range(PAIRS)))


def _interleaved(even: Expr, odd: Expr, start: int) -> Expr:
    """Return `PAIRS` values of `even` from `start` on, each followed by that of `odd`."""
    lanes = even.ty.dtype.lanes
    places = [place for i in range(start, start + PAIRS) for place in (i, lanes + i)]
    return T.Shuffle([even, odd], places)


def _rounded(halves: Expr) -> Expr:
    """Return float16 values as bfloat16, two in a uint32.

    The types are those of LLVM's intrinsic. TVM 0.27 crashes if the result, or a part of it, is
    bound to a name.
    """
    wide = T.Cast(f"float32x{2 * PAIRS}", halves)
    low, high = (T.Shuffle([wide], list(range(i, i + PAIRS))) for i in (0, PAIRS))
    intrinsic = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
    rounded = T.call_llvm_pure_intrin(f"bfloat16x{2 * PAIRS}", intrinsic, high, low)
    return T.reinterpret(f"uint32x{PAIRS}", rounded)
