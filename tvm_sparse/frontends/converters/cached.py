"""Attention with a cache, as `tvm_sparse.frontends.decoders` writes it into graphs."""

from __future__ import annotations

from typing import Any

from tvm import relax

from tvm_sparse.frontends.converters.node import Node
from tvm_sparse.passes.ir.operators import cached_attention as cached_call
from tvm_sparse.sizes.cached_attention import CachedAttention

DOMAIN, OPERATOR = "tvm_sparse.decoder", "CachedAttention"
"""An operator of ours, which no file has."""
NAME = f"{DOMAIN}.{OPERATOR}"

OPERANDS = ("q", "k", "v", "cos", "sin", "sinks", "slopes", "places", "state")
"""Its inputs; `k` and `v` are missing if `q` holds all three of them."""


def cached_attention(node: Node) -> Any:
    """Convert CachedAttention."""
    given = {name: node.inputs[i] for i, name in enumerate(OPERANDS) if node.inputs[i] is not None}
    heads, kv_heads = (int(node.attributes[name]) for name in ("num_heads", "kv_num_heads"))
    dtype, is_packed = str(given["q"].ty.dtype), "k" not in given
    for name in ("q", "k", "v", "cos", "sin", "sinks", "slopes"):
        if name in given and str(given[name].ty.dtype) != "float32":
            given[name] = node.emit(relax.op.astype(given[name], "float32"))
    problem = CachedAttention(
        tokens=node.shape(0)[1],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=int(node.attributes["head_dim"]),
        scale=float(node.attributes["scale"]),
        window=int(node.attributes.get("window", 0)),
        softcap=float(node.attributes.get("softcap", 0.0)),
        rotated=2 * int(given["cos"].ty.shape[1]) if "cos" in given else 0,
        interleaved=bool(node.attributes.get("interleaved", 0)),
        packed=is_packed,
        sinks="sinks" in given,
        slopes="slopes" in given,
        cache=node.text("cache_type", "float32"),
    )
    names = ["qkv" if is_packed and name == "q" else name for name in given]
    result = node.emit(cached_call(problem, dict(zip(names, given.values(), strict=True))))
    return result if dtype == "float32" else relax.op.astype(result, dtype)
