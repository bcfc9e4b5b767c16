"""Attention within sentences that lie one after another, each from the lane 0 of a panel on."""

from __future__ import annotations

from typing import Any

from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.attention import roundings_of
from tvm_sparse.passes.ir.operators.layouts import lanes_of
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, dtype_of, infer_same
from tvm_sparse.passes.ir.shapes import known_extents, known_size
from tvm_sparse.schedules.stage import Stage

SENTENCE_ATTENTION = Operator(
    PREFIX + "sentence_attention", ("q", "k", "v", "first", "count"), infer=infer_same
)
"""The same of tensors ``(rows, lanes, heads, head_dim)``, not of panels yet.

Attributes are `scale` and `most_keys`, and `roundings` as those of an attention.
"""


def sentence_attention(
    operands: list[relax.Expr], scale: float, most_keys: Any, roundings: dict[str, Any] | None
) -> relax.Call:
    """Attend within sentences.

    Parameters
    ----------
    operands : list of relax.Expr
        Queries, keys and values ``(rows, lanes, heads, head_dim)``; the first row of the sentence
        of each row, and the keys of that sentence, int32.
    scale : float
        Factor by which the scores are multiplied.
    most_keys : PrimExpr
        The most keys of a sentence.
    roundings : dict, optional
        The fields of a `Roundings`.
    """
    attrs: dict[str, Any] = {"scale": scale, "most_keys": most_keys}
    attrs |= {"roundings": roundings} if roundings else {}
    return SENTENCE_ATTENTION.call(*operands, **attrs)


def packed_attention(call: relax.Call, panels: list[relax.Expr], heads: int) -> relax.Call:
    """Return a call of `SENTENCE_ATTENTION` with its queries, keys and values as panels."""
    first, count = call.args[3:]
    attrs = {str(name): value for name, value in call.attrs.items()}
    return PACKED_ATTENTION.call(*panels, first, count, heads=heads, **attrs)


def _stage(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    q = PACKED_ATTENTION.operand(call, "q")
    rows, channels, _ = known_extents(q)
    heads = int(call.attrs["heads"])
    return schedules.PackedAttention(
        rows=rows,
        most_keys=known_size(call.attrs["most_keys"]),
        heads=heads,
        head_dim=channels // heads,
        lanes=lanes_of(q),
        scale=float(call.attrs["scale"]),
        cpu=cpu,
        dtype=dtype_of(q),
        roundings=roundings_of(call),
    )


PACKED_ATTENTION = Operator(
    PREFIX + "packed_attention",
    ("q", "k", "v", "first", "count"),
    infer=infer_same,
    stage=_stage,
    images=lambda call: 1,
    takes_sizes=True,
)
"""Attention within sentences of panels ``[rows, heads * head_dim, lanes]``."""
