"""The lanes of panels of tokens, of which the last panel of a sequence may hold few."""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.passes.ir.shapes import is_symbolic

OPEN_LANES = 16
"""Lanes that suffice if the number of tokens is open, where a vector has no more.

With AVX-512, panels of one vector instead of two cost BERT-base 4 % in float32 and nothing in
float16 at 128 tokens. At 8 tokens they take 0.63 and 0.66 of the time, and at 32 x 32 in float16,
where they are half empty otherwise, 0.50.
"""


def open_lanes(cpu: CpuProfile, dtype: DType) -> int:
    """Return the most lanes of panels of an open number of tokens."""
    return max(OPEN_LANES, cpu.vector_lanes(dtype))


def token_lanes(cpu: CpuProfile, dtype: DType, *tokens: int) -> int:
    """Return how many tokens form a panel: fewer if a number of tokens is open.

    Parameters
    ----------
    cpu : CpuProfile
        Chooses the lanes for fixed numbers, or has lanes that were measured.
    dtype : DType
        Type of the panels.
    *tokens : int
        Tokens of the sequences that have the same panels; an `Extent` where they are open.
    """
    lanes = cpu.panel_lanes(max(tokens), dtype)
    if cpu.token_lanes or not is_symbolic(tokens):
        return lanes
    return min(lanes, open_lanes(cpu, dtype))
