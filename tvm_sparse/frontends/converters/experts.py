"""Mixtures of experts of com.microsoft: a router sends each token to a few feed-forward networks.

The products are written with weights that are chosen for each token; `RecomposeExperts` makes
layers of them that read the weights in place.
"""

from __future__ import annotations

import math
from typing import Any

from tvm import relax

from tvm_sparse.frontends.converters.node import Node

_GATED = ("silu", "gelu", "swiglu")
"""Activations whose result may be multiplied by that of a third layer."""


def mixture_of_experts(node: Node) -> Any:
    """Convert MoE: ``sum(p[e] * fc2[e](activation(fc1[e](x))))`` over the likeliest experts."""
    x, logits = node.inputs[0], node.inputs[1]
    if node.attributes.get("use_sparse_mixer", 0):
        raise NotImplementedError("its attribute 'use_sparse_mixer' is not supported")
    shape, (tokens, _) = node.shape(0), node.shape(1)
    experts, shares = _route(node, logits)
    rows = node.emit(relax.op.reshape(x, (tokens, 1, shape[-1], 1)))
    hidden = _activated(node, rows, experts)
    out = _layer(node, hidden, experts, 4)
    shares = node.emit(relax.op.expand_dims(shares, [2, 3]))
    weighted = node.emit(relax.op.multiply(out, shares))
    return relax.op.reshape(node.emit(relax.op.sum(weighted, [1])), shape)


def _route(node: Node, logits: relax.Expr) -> tuple[relax.Expr, relax.Expr]:
    """Return the experts of each token and their shares, both ``[tokens, k]``."""
    count = int(node.attributes.get("k", 1))
    likely = node.emit(relax.op.nn.softmax(logits, -1))
    top = node.emit(relax.op.topk(likely, count, -1, "both", True, "int64"))
    shares, experts = (node.emit(relax.TupleGetItem(top, i)) for i in range(2))
    if node.attributes.get("normalize_routing_weights", 0):
        total = node.emit(relax.op.sum(shares, [-1], keepdims=True))
        shares = node.emit(relax.op.divide(shares, total))
    return experts, shares


def _activated(node: Node, rows: relax.Expr, experts: relax.Expr) -> relax.Expr:
    """Return what the second layer reads, ``[tokens, k, channels, 1]``."""
    emit, kind = node.emit, node.text("activation_type", "relu")
    first = emit(_layer(node, rows, experts, 2))
    fusion = int(node.attributes.get("swiglu_fusion", 0)) if kind == "swiglu" else 0
    other = None
    if fusion:
        first, other = _halves(node, first, is_interleaved=fusion == 1)
    if node.inputs[6] is not None:
        if fusion or kind not in _GATED:
            raise NotImplementedError("its input 'fc3_experts_weights' is not supported here")
        other = emit(_layer(node, rows, experts, 6))
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


def _layer(node: Node, rows: relax.Expr, experts: relax.Expr, position: int) -> relax.Expr:
    """Return the products of rows ``[tokens, 1 or k, K, 1]`` and the weights of their experts."""
    names = {2: "fc1", 4: "fc2", 6: "fc3"}
    weights = relax.const(node.required(position, f"{names[position]}_experts_weights"))
    chosen = node.emit(relax.op.take(weights, experts, axis=0, mode="clip"))
    product = relax.op.matmul(chosen, rows)
    bias = node.inputs[position + 1]
    if bias is None:
        return product
    of_expert = node.emit(relax.op.take(bias, experts, axis=0, mode="clip"))
    return relax.op.add(node.emit(product), node.emit(relax.op.expand_dims(of_expert, [3])))
