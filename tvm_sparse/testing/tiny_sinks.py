"""A softmax with attention sinks, as exporters write it."""

from __future__ import annotations

import numpy as np

from tvm_sparse.testing.tiny_decoders import GraphWriter


def softmax_with_sinks(out: GraphWriter, scores: str, heads: int, i: int) -> str:
    """Return the softmax of scores ``(1, heads, tokens, positions)``, each with a random sink."""
    shape = out.node("Shape", [scores], f"scores_shape{i}")
    tokens = out.node("Gather", [shape, out.weight(f"two{i}", np.array([2]))], f"tokens{i}")
    ends = [out.weight(f"{n}_of_{i}", np.array([n])) for n in (1, heads)]
    wide = out.node("Concat", [*ends, tokens, ends[0]], f"sinks_shape{i}", axis=0)
    sinks = out.weight(f"sinks{i}", out.random(1, heads, 1, 1))
    every = [scores, out.node("Expand", [sinks, wide], f"sinks_wide{i}")]
    joined = out.node("Concat", every, f"with_sinks{i}", axis=-1)
    axis = out.weight(f"last{i}", np.array([-1]))
    most = out.node("ReduceMax", [joined, axis], f"most{i}", keepdims=1)
    less = out.node("Sub", [joined, most], f"less{i}")
    weights = out.node("Softmax", [less], f"every_weight{i}", axis=-1)
    return out.node(
        "Slice", [weights, out.weight(f"zero{i}", np.array([0])), axis, axis], f"weights{i}"
    )
