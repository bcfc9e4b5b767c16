"""The operators that ONNX Runtime's transformer optimizer makes of several, in com.microsoft.

A quantized transformer often has them. Attention is written as the products and the softmax that
it consists of, which passes recognize.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from tvm_sparse.frontends.converters import quantized
from tvm_sparse.frontends.converters.node import Node
from tvm_sparse.frontends.onnx_attention import write_out_attention

_HIDDEN = -10000.0
"""What ONNX Runtime adds to the scores of masked keys by default."""


def attention(node: Node) -> Any:
    """Convert Attention of com.microsoft, without a cache of past keys and values."""
    x, weight, bias, mask, *others = (node.inputs[i] for i in range(7))
    if any(value is not None for value in others):
        raise NotImplementedError("a cache of past keys, or a bias of scores, is not supported")
    return _attention(node, x, weight, bias, mask)


def quantized_attention(node: Node) -> Any:
    """Convert QAttention: only its first product, of queries, keys and values, is quantized."""
    x, weight, bias, x_scale, weight_scale, mask, x_zero, weight_zero, past = (
        node.inputs[i] for i in range(9)
    )
    if past is not None:
        raise NotImplementedError("a cache of past keys is not supported")
    x = quantized.dequantized(node, x, x_scale, x_zero)
    weight = quantized.dequantized(node, weight, weight_scale, weight_zero, axis=1)
    return _attention(node, x, weight, bias, mask)


def _attention(node: Node, x: relax.Expr, weight: relax.Expr, bias: Any, mask: Any) -> Any:
    emit, attributes = node.emit, node.attributes
    for name in ("do_rotary", "past_present_share_buffer"):
        if attributes.get(name, 0):
            raise NotImplementedError(f"its attribute {name!r} is not supported")
    heads = int(attributes["num_heads"])
    product = emit(relax.op.matmul(x, weight))
    if bias is not None:
        product = emit(relax.op.add(product, bias))
    batch, tokens, width = (int(size) for size in product.ty.shape)
    sizes = node.ints("qkv_hidden_sizes", [width // 3] * 3)
    ends = np.cumsum([0, *sizes])
    operands = [
        emit(relax.op.strided_slice(product, [2], [int(start)], [int(end)]))
        for start, end in itertools.pairwise(ends)
    ]
    if mask is not None:
        hidden = float(attributes.get("mask_filter_value", _HIDDEN))
        operands.append(_bias_of(node, mask, batch, tokens, hidden))
    scale = float(attributes.get("scale", 0.0)) or 1 / math.sqrt(sizes[0] // heads)
    options = {
        "q_num_heads": heads,
        "kv_num_heads": heads,
        "scale": scale,
        "is_causal": int(attributes.get("unidirectional", 0)),
    }
    return write_out_attention(node.builder, operands, options)


def _bias_of(node: Node, mask: relax.Expr, batch: int, tokens: int, hidden: float) -> relax.Expr:
    """Return what a mask adds to scores: 0, or `hidden` where a key is not seen."""
    emit, shape = node.emit, [int(size) for size in mask.ty.shape]
    if shape == [batch]:  # the lengths of the sequences
        positions = relax.const(np.arange(tokens, dtype="int32").reshape(1, tokens))
        lengths = emit(relax.op.reshape(emit(relax.op.astype(mask, "int32")), (batch, 1)))
        seen = emit(relax.op.astype(emit(relax.op.less(positions, lengths)), "float32"))
        shape = [batch, tokens]
    else:
        seen = emit(relax.op.astype(mask, "float32"))
    wide = {
        (batch, tokens): (batch, 1, 1, tokens),
        (batch, tokens, tokens): (batch, 1, tokens, tokens),
    }.get(tuple(shape))
    if wide is None:
        raise NotImplementedError(f"its mask of shape {shape} is not supported")
    unseen = emit(relax.op.subtract(relax.const(1.0, "float32"), seen))
    bias = emit(relax.op.multiply(unseen, relax.const(hidden, "float32")))
    return emit(relax.op.reshape(bias, wide))


def skip_layer_normalization(node: Node) -> Any:
    """Convert SkipLayerNormalization: the normalization of a sum."""
    x, skip, gamma, beta, bias = (node.inputs[i] for i in range(5))
    total = node.emit(relax.op.add(x, skip))
    if bias is not None:
        total = node.emit(relax.op.add(total, bias))
    if node.outputs in (2, 3):
        raise NotImplementedError("the statistics of its normalization are not supported")
    result = normalized(node, total, gamma, beta, 1e-12)
    if node.outputs == 1:
        return result
    # Its statistics, which only training reads, have no values.
    return relax.Tuple([node.emit(result), total, total, total])


def normalized(node: Node, x: relax.Expr, gamma: Any, beta: Any, epsilon: float) -> relax.Expr:
    """Return the layer normalization of the last axis."""
    if beta is None:
        beta = relax.const(np.zeros([int(size) for size in gamma.ty.shape], "float32"))
    epsilon = float(node.attributes.get("epsilon", epsilon))
    return relax.op.nn.layer_norm(x, gamma, beta, [-1], epsilon)


def gelu(node: Node) -> Any:
    """Convert Gelu and BiasGelu."""
    x, bias = node.inputs[0], node.inputs[1]
    return relax.op.nn.gelu(x if bias is None else node.emit(relax.op.add(x, bias)))


def fast_gelu(node: Node) -> Any:
    """Convert FastGelu, the form with tanh."""
    x, bias = node.inputs[0], node.inputs[1]
    return relax.op.nn.gelu_tanh(x if bias is None else node.emit(relax.op.add(x, bias)))


def embed_layer_normalization(node: Node) -> Any:
    """Convert EmbedLayerNormalization, whose mask becomes the numbers of tokens."""
    return _embedded(node, [node.inputs[i] for i in range(9)])


def quantized_embed_layer_normalization(node: Node) -> Any:
    """Convert QEmbedLayerNormalization, whose tables and factors are quantized."""
    inputs = [node.inputs[i] for i in range(18)]
    values = inputs[:8]
    for position, which in enumerate((2, 3, 4, 5, 6)):
        if values[which] is not None:
            scale, zero = inputs[8 + position], inputs[13 + position]
            values[which] = quantized.dequantized(node, values[which], scale, zero)
    return _embedded(node, [*values, None])


def _embedded(node: Node, inputs: list[Any]) -> Any:
    ids, segments, words, places, of_segments, gamma, beta, mask, positions = inputs
    emit = node.emit
    if node.attributes.get("mask_index_type", 0) or node.outputs > 2:
        raise NotImplementedError("its attribute 'mask_index_type' is not supported")
    batch, tokens = (int(size) for size in ids.ty.shape)
    total = emit(relax.op.take(words, ids, axis=0))
    if positions is None:
        places = emit(relax.op.strided_slice(places, [0], [0], [tokens]))
    else:
        places = emit(relax.op.take(places, positions, axis=0))
    total = emit(relax.op.add(total, places))
    if segments is not None:
        total = emit(relax.op.add(total, emit(relax.op.take(of_segments, segments, axis=0))))
    result = normalized(node, total, gamma, beta, 1e-12)
    if node.outputs == 1:
        return result
    counts = relax.const(np.zeros(batch, "int32"))
    if mask is not None:
        counts = emit(relax.op.sum(emit(relax.op.astype(mask, "int32")), [1]))
    return relax.Tuple([emit(result), counts])


FUSED: dict[str, Callable[[Node], Any]] = {
    "Attention": attention,
    "BiasGelu": gelu,
    "EmbedLayerNormalization": embed_layer_normalization,
    "FastGelu": fast_gelu,
    "Gelu": gelu,
    "QAttention": quantized_attention,
    "QEmbedLayerNormalization": quantized_embed_layer_normalization,
    "SkipLayerNormalization": skip_layer_normalization,
}
"""The fused operators by their names without the domain."""
