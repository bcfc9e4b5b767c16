"""Attention of token sequences in panels: ``softmax(scale q k^T + bias) v`` for every head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.quantization import Roundings
from tvm_sparse.passes.ir.operators.layouts import lanes_of
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, dtype_of, infer_same
from tvm_sparse.passes.ir.shapes import known_extents, known_size
from tvm_sparse.schedules.stage import Stage


def attention(
    query: relax.Expr,
    key: relax.Expr,
    value: relax.Expr,
    bias: relax.Expr | None,
    attrs: dict[str, Any],
) -> relax.Call:
    """Attend with panels of ``heads * head_dim`` channels.

    Parameters
    ----------
    query, key, value : relax.Expr
        Panels.
    bias : relax.Expr, optional
        A tensor ``(batch | 1, heads | 1, tokens | 1, key tokens)`` that is added to the scaled
        scores.
    attrs : dict
        `batch`, `tokens`, `key_tokens`, `heads`, `head_dim`, `scale`, and if scores or weights are
        rounded, `roundings`, the fields of a `Roundings`.
    """
    return ATTENTION.call(query, key, value, *([] if bias is None else [bias]), **attrs)


def _attention(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    attrs, operands = call.attrs, ATTENTION.operands_of(call)
    return schedules.Attention(
        batch=known_size(attrs["batch"]),
        tokens=known_size(attrs["tokens"]),
        key_tokens=known_size(attrs["key_tokens"]),
        heads=int(attrs["heads"]),
        head_dim=int(attrs["head_dim"]),
        lanes=lanes_of(operands["q"]),
        scale=float(attrs["scale"]),
        bias_shape=known_extents(operands["bias"]) if "bias" in operands else None,
        cpu=cpu,
        dtype=dtype_of(operands["q"]),
        roundings=roundings_of(call),
    )


def roundings_of(call: relax.Call) -> Roundings:
    """Return what an attention rounds its scores and weights to."""
    attrs = call.attrs
    if not isinstance(attrs, tvm.ir.DictAttrs) or "roundings" not in attrs:
        return Roundings()
    fields = {str(name): [list(s) for s in steps] for name, steps in attrs["roundings"].items()}
    return Roundings.from_fields(fields)


def rounded_attention(
    operands: Sequence[relax.Expr], scale: float, roundings: Roundings
) -> relax.Call:
    """Attend with rounded scores or weights.

    Parameters
    ----------
    operands : sequence of relax.Expr
        Queries, keys, values and perhaps a bias, as `relax.nn.attention` takes them.
    scale : float
        Factor by which the scores are multiplied.
    roundings : Roundings
        What is rounded; the scaled scores come before the bias.
    """
    fields = {"scale": scale, "causal_mask": None, "window_size": None}
    return ROUNDED_ATTENTION.call(*operands, **fields, roundings=roundings.to_fields())


ATTENTION = Operator(
    PREFIX + "attention",
    ("q", "k", "v"),
    ("bias",),
    infer=infer_same,
    stage=_attention,
    images=lambda call: known_size(call.attrs["batch"]),
    takes_sizes=True,
)
ROUNDED_ATTENTION = Operator(
    PREFIX + "rounded_attention", ("q", "k", "v"), ("bias",), infer=infer_same
)
"""A rounded attention of tensors ``(batch, tokens, heads, head_dim)``, not of panels yet."""
