"""Rotary position embeddings: channels of a head are rotated in pairs, by angles of positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from tvm_sparse.frontends.converters.node import Node


def rotary_embedding(node: Node) -> Any:
    """Convert RotaryEmbedding of the ONNX standard."""
    x, cos, sin, positions = (node.inputs[i] for i in range(4))
    return _rotated(node, x, cos, sin, positions)


def microsoft_rotary_embedding(node: Node) -> Any:
    """Convert RotaryEmbedding of com.microsoft, whose positions may be those of the first token."""
    x, positions, cos, sin = (node.inputs[i] for i in range(4))
    for name, default in (("is_packed_batching", 0), ("scale", 1.0)):
        if node.attributes.get(name, default) != default:
            raise NotImplementedError(f"its attribute {name!r} is not supported")
    if node.shape(1) == [1]:
        shape = node.shape(0)
        tokens = shape[2] if len(shape) == 4 else shape[1]
        steps = relax.const(np.arange(tokens)[None].astype(node.dtype(1)), node.dtype(1))
        positions = node.emit(relax.op.add(positions, steps))
        positions = node.emit(relax.op.broadcast_to(positions, (shape[0], tokens)))
    return _rotated(node, x, cos, sin, positions)


def _rotated(node: Node, x: relax.Expr, cos: Any, sin: Any, positions: Any) -> relax.Expr:
    """Rotate a tensor ``(batch, heads, tokens, head_dim)`` or ``(batch, tokens, channels)``."""
    emit, shape = node.emit, node.shape(0)
    heads, rotated = (
        int(node.attributes.get(name, 0)) for name in ("num_heads", "rotary_embedding_dim")
    )
    interleaved = int(node.attributes.get("interleaved", 0))
    half = int(cos.ty.shape[-1])
    if len(shape) == 4:
        batch, heads, tokens, width = shape
        x = emit(relax.op.permute_dims(x, [0, 2, 1, 3]))
    else:
        batch, tokens, channels = shape
        heads = heads or channels // (rotated or 2 * half)
        width = channels // heads
        x = emit(relax.op.reshape(x, (batch, tokens, heads, width)))
    rotated = rotated or width
    if rotated != 2 * half:
        raise NotImplementedError(f"its tables have {half} angles, and {rotated} channels rotate")
    if positions is not None:
        flat = emit(relax.op.reshape(positions, (batch * tokens,)))
        cos, sin = (emit(relax.op.take(table, flat, 0)) for table in (cos, sin))
    shape_of_tables = (batch, tokens, 1, half)
    cos, sin = (emit(relax.op.reshape(table, shape_of_tables)) for table in (cos, sin))

    def part(begin: int, end: int) -> relax.Var:
        return emit(relax.op.strided_slice(x, [3], [begin], [end]))

    def times(value: relax.Expr, table: relax.Expr) -> relax.Var:
        return emit(relax.op.multiply(value, table))

    turning, still = part(0, rotated), part(rotated, width) if rotated < width else None
    if interleaved:
        pairs = emit(relax.op.reshape(turning, (batch, tokens, heads, half, 2)))
        halves = emit(relax.op.permute_dims(pairs, [0, 1, 2, 4, 3]))
        turning = emit(relax.op.reshape(halves, (batch, tokens, heads, rotated)))
    a = emit(relax.op.strided_slice(turning, [3], [0], [half]))
    b = emit(relax.op.strided_slice(turning, [3], [half], [rotated]))
    first = emit(relax.op.subtract(times(a, cos), times(b, sin)))
    second = emit(relax.op.add(times(b, cos), times(a, sin)))
    if interleaved:
        pairs = emit(relax.op.stack([first, second], 4))
        turned = [emit(relax.op.reshape(pairs, (batch, tokens, heads, rotated)))]
    else:
        turned = [first, second]
    whole = emit(relax.op.concat([*turned, *([] if still is None else [still])], 3))
    if len(shape) == 4:
        return relax.op.permute_dims(whole, [0, 2, 1, 3])
    return relax.op.reshape(whole, tuple(shape))
