"""Mixtures of experts of com.microsoft: a router sends each token to a few feed-forward networks.

The products are written with weights that are chosen for each token; `RecomposeExperts` makes
layers of them that read the weights in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from tvm_sparse.formats.blocks import BITS, BlockCodes, unpacked
from tvm_sparse.frontends.converters.node import Node
from tvm_sparse.passes.ir import operators
from tvm_sparse.sizes.expert_linear import ExpertLinear

_GATED = ("silu", "gelu", "swiglu")
"""Activations whose result may be multiplied by that of a third layer."""


Layers = Callable[[relax.Expr, relax.Expr, int], relax.Expr]
"""Returns the products of rows ``[tokens, 1 or k, K, 1]`` and the weights of their experts
``[tokens, k]`` in the layer of a number."""


def mixture_of_experts(node: Node) -> Any:
    """Convert MoE: ``sum(p[e] * fc2[e](activation(fc1[e](x))))`` over the likeliest experts."""

    def layer(rows: relax.Expr, experts: relax.Expr, number: int) -> relax.Expr:
        return _layer(node, rows, experts, number)

    is_normalized = bool(node.attributes.get("normalize_routing_weights", 0))
    return _mixture(node, layer, node.inputs[6] is not None, is_normalized)


def quantized_mixture_of_experts(node: Node) -> Any:
    """Convert QMoE, whose weights have 4 or 8 bits.

    Its shares always sum up to 1 in ONNX Runtime, whatever ``normalize_routing_weights`` says.
    """
    kind = node.text("quant_type", "int")
    if kind != "int":
        raise NotImplementedError(f"its attribute 'quant_type' is {kind!r}, not 'int'")
    if node.attributes.get("weights_prepacked", 0) == 1:
        raise NotImplementedError("weights that are packed for a provider are not supported")
    if node.inputs[14] is not None:
        raise NotImplementedError("its input 'router_weights' is not supported")
    node.attributes.get("normalize_routing_weights", 0)

    def layer(rows: relax.Expr, experts: relax.Expr, number: int) -> relax.Expr:
        return _quantized_layer(node, rows, experts, number)

    return _mixture(node, layer, node.inputs[8] is not None, is_normalized=True)


def _mixture(node: Node, layer: Layers, has_third: bool, is_normalized: bool) -> Any:
    x, logits = node.inputs[0], node.inputs[1]
    if node.attributes.get("use_sparse_mixer", 0):
        raise NotImplementedError("its attribute 'use_sparse_mixer' is not supported")
    if node.dtype(0) != "float32":
        raise NotImplementedError(f"experts of {node.dtype(0)} are not supported")
    shape, (tokens, _) = node.shape(0), node.shape(1)
    experts, shares = _route(node, logits, is_normalized)
    rows = node.emit(relax.op.reshape(x, (tokens, 1, shape[-1], 1)))
    hidden = _activated(node, rows, experts, layer, has_third)
    out = node.emit(layer(hidden, experts, 2))
    shares = node.emit(relax.op.expand_dims(shares, [2, 3]))
    weighted = node.emit(relax.op.multiply(out, shares))
    return relax.op.reshape(node.emit(relax.op.sum(weighted, [1])), shape)


def _route(node: Node, logits: relax.Expr, is_normalized: bool) -> tuple[relax.Expr, relax.Expr]:
    """Return the experts of each token and their shares, both ``[tokens, k]``."""
    count = int(node.attributes.get("k", 1))
    likely = node.emit(relax.op.nn.softmax(logits, -1))
    top = node.emit(relax.op.topk(likely, count, -1, "both", True, "int64"))
    shares, experts = (node.emit(relax.TupleGetItem(top, i)) for i in range(2))
    if is_normalized:
        total = node.emit(relax.op.sum(shares, [-1], keepdims=True))
        shares = node.emit(relax.op.divide(shares, total))
    return experts, shares


def _activated(
    node: Node, rows: relax.Expr, experts: relax.Expr, layer: Layers, has_third: bool
) -> relax.Expr:
    """Return what the second layer reads, ``[tokens, k, channels, 1]``."""
    emit, kind = node.emit, node.text("activation_type", "relu")
    first = emit(layer(rows, experts, 1))
    fusion = int(node.attributes.get("swiglu_fusion", 0)) if kind == "swiglu" else 0
    other = None
    if fusion:
        first, other = _halves(node, first, is_interleaved=fusion == 1)
    if has_third:
        if fusion or kind not in _GATED:
            raise NotImplementedError("its input 'fc3_experts_weights' is not supported here")
        other = emit(layer(rows, experts, 3))
    if kind == "swiglu":
        if other is None:
            raise NotImplementedError("its activation swiglu has one layer, and needs two")
        return _swiglu(node, first, other)
    functions: dict[str, Any] = {
        "relu": relax.op.nn.relu,
        "gelu": relax.op.nn.gelu_tanh,
        "silu": relax.op.nn.silu,
        "identity": lambda value: value,
    }
    if kind not in functions:
        raise NotImplementedError(f"its activation {kind!r} is not supported")
    active = emit(functions[kind](first))
    return active if other is None else emit(relax.op.multiply(active, other))


def _halves(node: Node, both: relax.Expr, is_interleaved: bool) -> tuple[relax.Expr, relax.Expr]:
    """Return the gates and the values that one layer computes."""
    tokens, count, channels, _ = (int(size) for size in both.ty.shape)
    half = channels // 2
    shape, axis = ((half, 2), 3) if is_interleaved else ((2, half), 2)
    split = node.emit(relax.op.reshape(both, (tokens, count, *shape)))
    parts = node.emit(relax.op.split(split, 2, axis))
    gates, values = (
        node.emit(relax.op.reshape(node.emit(part), (tokens, count, half, 1)))
        for part in (relax.TupleGetItem(parts, 0), relax.TupleGetItem(parts, 1))
    )
    return gates, values


def _swiglu(node: Node, gates: relax.Expr, values: relax.Expr) -> relax.Expr:
    """Return ``G * sigmoid(alpha * G) * (L + beta)`` of clamped gates G and values L."""
    emit = node.emit
    alpha, beta, limit = (
        float(node.attributes.get(name, default))
        for name, default in (
            ("activation_alpha", 1.0), ("activation_beta", 0.0), ("swiglu_limit", math.inf),
        )
    )  # fmt: skip
    if math.isfinite(limit):
        gates = emit(relax.op.minimum(gates, relax.const(limit, "float32")))
        values = emit(relax.op.clip(values, -limit, limit))
    if alpha == 1:
        gates = emit(relax.op.nn.silu(gates))
    else:
        scaled = emit(relax.op.multiply(gates, relax.const(alpha, "float32")))
        gates = emit(relax.op.multiply(gates, emit(relax.op.sigmoid(scaled))))
    if beta:
        values = emit(relax.op.add(values, relax.const(beta, "float32")))
    return emit(relax.op.multiply(gates, values))


def _layer(node: Node, rows: relax.Expr, experts: relax.Expr, number: int) -> relax.Expr:
    """Return the products by weights of floats."""
    weights = relax.const(node.required(2 * number, f"fc{number}_experts_weights"))
    chosen = node.emit(relax.op.take(weights, experts, axis=0, mode="clip"))
    product = relax.op.matmul(chosen, rows)
    return _with_bias(node, product, node.inputs[2 * number + 1], experts)


def _quantized_layer(node: Node, rows: relax.Expr, experts: relax.Expr, number: int) -> relax.Expr:
    """Return the products by weights of few bits."""
    name, first = f"fc{number}", 3 * number - 1
    usual = int(node.attributes.get("expert_weight_bits", 4))
    bits = int(node.attributes.get(f"{name}_expert_weight_bits", 0)) or usual
    if bits not in BITS:
        raise NotImplementedError(f"weights of {bits} bits are not supported")
    weight = _codes(node, first, 10 + number, name, bits)
    level = int(node.attributes.get("accuracy_level", 0))
    tokens, count = (int(size) for size in experts.ty.shape)
    k, total = weight.shape[1], int(node.inputs[1].ty.shape[1])
    problem = ExpertLinear(tokens * count, total, weight.shape[0] // total, k)
    x = node.emit(relax.op.broadcast_to(rows, (tokens, count, k, 1)))
    x = node.emit(relax.op.reshape(x, (problem.rows, k)))
    of = node.emit(relax.op.reshape(experts, (problem.rows,)))
    activations = "int8" if level == 4 else "int16"
    product = node.emit(operators.block_experts(x, of, weight, problem, activations))
    product = relax.op.reshape(product, (tokens, count, problem.n, 1))
    return _with_bias(node, product, node.inputs[first + 2], experts)


def _codes(node: Node, position: int, zeros_at: int, name: str, bits: int) -> BlockCodes:
    """Return the weights of all experts, one below the other."""
    packed = node.required(position, f"{name}_experts_weights")
    scales = node.required(position + 1, f"{name}_scales")
    experts, n, _ = packed.shape
    codes = unpacked(packed.reshape(experts * n, -1).view("uint8"), bits)
    scales = scales.astype("float32").reshape(experts * n, -1)
    block = int(node.attributes.get("block_size", 0)) or codes.shape[1]
    if scales.shape[1] * block != codes.shape[1]:
        raise NotImplementedError("its blocks do not fit its weights")
    zeros = node.constant(zeros_at, f"{name}_zero_points")
    points = np.full(scales.shape, 1 << (bits - 1), "uint8")
    if zeros is not None:
        points = unpacked(zeros.reshape(experts, -1), bits)[:, : n * scales.shape[1]]
        if zeros.ndim == 3:
            points = unpacked(zeros.reshape(experts * n, -1), bits)[:, : scales.shape[1]]
    points = np.ascontiguousarray(points.reshape(scales.shape))
    return BlockCodes(np.ascontiguousarray(codes), scales, points, bits, block)


def _with_bias(
    node: Node, product: relax.Expr, bias: relax.Expr | None, experts: relax.Expr
) -> relax.Expr:
    if bias is None:
        return product
    of_expert = node.emit(relax.op.take(bias, experts, axis=0, mode="clip"))
    return relax.op.add(node.emit(product), node.emit(relax.op.expand_dims(of_expert, [3])))
