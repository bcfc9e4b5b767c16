"""The ONNX operator Attention (opsets 23 and up) in Relax; TVM has no converter for it.

The converter writes it as two products and a softmax, the form that `passes.RecomposeAttention`
recognizes, so that operands, masks and layouts are analysed in one place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax


def write_out_attention(
    builder: relax.BlockBuilder,
    inputs: Sequence[Any],
    attributes: Mapping[str, Any],
) -> relax.Expr:
    """Convert one node.

    Parameters
    ----------
    builder : relax.BlockBuilder
        The builder that gets the operators.
    inputs : sequence of relax.Expr or None
        Query, key and value, `(batch, heads, tokens, head_dim)` or `(batch, tokens, channels)`;
        then the mask if there is one, boolean (true is visible) or float (added to the scores).
    attributes : mapping of str to object
        The attributes of the node.

    Returns
    -------
    relax.Expr
        The node's first output, in the layout of the query.

    Raises
    ------
    NotImplementedError
        If the node has a cache of past keys and values, or a number of keys to read.
    """
    query, key, value, mask, *cache = [*inputs, None][: max(len(inputs), 4)]
    if any(given is not None for given in cache):
        raise NotImplementedError("a cache of past keys and values is not supported")
    emit = builder.emit
    shape = [int(extent) for extent in query.ty.shape]
    if len(shape) == 3:
        heads, groups = int(attributes["q_num_heads"]), int(attributes["kv_num_heads"])
        query = _split_heads(emit, query, heads)
        key, value = _split_heads(emit, key, groups), _split_heads(emit, value, groups)
    repeats = int(query.ty.shape[1]) // int(key.ty.shape[1])
    if repeats > 1:
        key, value = (emit(relax.op.repeat(operand, repeats, 1)) for operand in (key, value))
    scale = float(attributes.get("scale", 0.0)) or 1 / math.sqrt(int(query.ty.shape[3]))
    dtype, cap = query.ty.dtype, float(attributes.get("softcap", 0.0))
    scores = emit(relax.op.matmul(query, emit(relax.op.permute_dims(key, [0, 1, 3, 2]))))
    scores = emit(relax.op.multiply(scores, relax.const(scale, dtype)))
    if cap:
        capped = emit(relax.op.tanh(emit(relax.op.divide(scores, relax.const(cap, dtype)))))
        scores = emit(relax.op.multiply(capped, relax.const(cap, dtype)))
    for bias in _biases(emit, mask, scores, _visible(attributes, scores)):
        scores = emit(relax.op.add(scores, bias))
    weights = emit(relax.op.nn.softmax(scores, axis=-1))
    if mask is not None:
        # A query that may not see any key gets zeros.
        blind = emit(relax.op.isnan(weights))
        weights = emit(relax.op.where(blind, relax.const(0, dtype), weights))
    result = emit(relax.op.matmul(weights, value))
    if len(shape) == 3:
        result = emit(relax.op.permute_dims(result, [0, 2, 1, 3]))
        result = emit(relax.op.reshape(result, (*shape[:2], -1)))
    return result


def _split_heads(emit: Any, operand: relax.Expr, heads: int) -> relax.Var:
    batch, tokens, channels = (int(extent) for extent in operand.ty.shape)
    split = emit(relax.op.reshape(operand, (batch, tokens, heads, channels // heads)))
    return emit(relax.op.permute_dims(split, [0, 2, 1, 3]))


def _biases(
    emit: Any, mask: relax.Expr | None, scores: relax.Expr, visible: np.ndarray
) -> list[relax.Expr]:
    """Return the terms to add to the scores: the mask, and -inf for keys beyond the window."""
    keys = int(scores.ty.shape[-1])
    dtype, biases = scores.ty.dtype, []
    if mask is not None:
        if int(mask.ty.shape[-1]) not in (1, keys):
            raise NotImplementedError("a mask over only some of the keys is not supported")
        if str(mask.ty.dtype) == "bool":
            shown, hidden = relax.const(0, dtype), relax.const(-math.inf, dtype)
            mask = emit(relax.op.where(mask, shown, hidden))
        biases.append(mask)
    if not visible.all():
        biases.append(relax.const(np.where(visible, 0, -np.inf), dtype))
    return biases


def _visible(attributes: Mapping[str, Any], scores: relax.Expr) -> np.ndarray:
    """Return which keys each query sees, `(queries, keys)`; a window below 0 is unlimited."""
    queries, keys = [int(extent) for extent in scores.ty.shape][-2:]
    left, right = (int(attributes.get(f"{side}_window_size", -1)) for side in ("left", "right"))
    if attributes.get("is_causal", 0):
        right = 0
    distance = np.arange(keys) - np.arange(queries)[:, None]
    return (distance >= (-left if left >= 0 else -queries)) & (
        distance <= (right if right >= 0 else keys)
    )
