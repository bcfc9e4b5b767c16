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
        float16 vectors of 8, 16 or 32 lanes.

    Returns
    -------
    list of Expr
        uint32 vectors of `PAIRS` pairs or, of 8 lanes, of 8; the value of `even` is in the lower
        half of each.
    """
    lanes = even.ty.dtype.lanes
    even, odd = (T.bind(_whole(x, PAIRS)) for x in (even, odd))
    starts = range(0, max(lanes, PAIRS), PAIRS)
    vectors = [_rounded(_interleaved(even, odd, start)) for start in starts]
    return [_cut(v, lanes) for v in vectors]


def bfloat16_of(halves: Expr) -> Expr:
    """Return a float16 vector of 8, 16 or 32 lanes as bits of bfloat16, rounded likewise."""
    lanes = halves.ty.dtype.lanes
    rounded = _rounded(T.bind(_whole(halves, 2 * PAIRS)))
    return _cut(T.reinterpret(f"uint16x{2 * PAIRS}", rounded), lanes)


def _whole(x: Expr, lanes: int) -> Expr:
    """Return a vector repeated until it has `lanes` lanes, or more if it has more."""
    held = x.ty.dtype.lanes
    return x if held >= lanes else T.Shuffle([x] * (lanes // held), list(range(lanes)))


def _cut(x: Expr, lanes: int) -> Expr:
    """Return the first lanes of a vector, or all if it has no more."""
    return x if x.ty.dtype.lanes <= lanes else T.Shuffle([x], list(range(lanes)))


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
