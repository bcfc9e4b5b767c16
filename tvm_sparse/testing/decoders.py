"""A decoder to compare with: NumPy in float64, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders import DecoderConfig, QuantizedRows
from tvm_sparse.decoders.parameters import (
    BEFORE_GATED,
    BEHIND_GATED,
    EMBEDDINGS,
    HEAD,
    LAST_NORM,
    ROUTER,
    Parameters,
    expert_names,
    layer,
)


class ReferenceDecoder:
    """A language model with a cache of its own.

    Parameters
    ----------
    config, parameters
        As for `tvm_sparse.decoders.decoder_model`.
    """

    def __init__(self, config: DecoderConfig, parameters: Parameters) -> None:
        self._config = config
        self._parameters = parameters
        self.keys: list[list[NDArray]] = [[] for _ in range(config.layers)]
        self.values: list[list[NDArray]] = [[] for _ in range(config.layers)]

    def step(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """Append tokens; return their logits, (tokens, vocabulary)."""
        return np.stack([self._token(token) for token in ids])

    def _token(self, token: int) -> NDArray:
        config = self._config
        x = self._dense(EMBEDDINGS)[token] * config.embedding_scale
        for index in range(config.layers):
            name = layer(index)
            attended = self._attend(index, self._norm(x, f"{name}input_layernorm.weight"))
            before = "post_attention_layernorm"
            if config.result_norms:
                attended = self._norm(attended, f"{name}{before}.weight")
                before = BEFORE_GATED
            x = x + attended
            added = self._feed_forward(name, self._norm(x, f"{name}{before}.weight"))
            if config.result_norms:
                added = self._norm(added, f"{name}{BEHIND_GATED}.weight")
            x = x + added
        logits = self._dense(EMBEDDINGS if config.tied else HEAD) @ self._norm(x, LAST_NORM)
        return _limited(logits, config.logit_softcap)

    def _feed_forward(self, name: str, x: NDArray) -> NDArray:
        config = self._config
        if not config.experts:
            parts = (f"{name}mlp.{part}_proj" for part in ("gate", "up", "down"))
            return self._gated(x, *parts)
        logits = self._linear(x, f"{name}{ROUTER}")
        chosen = np.argsort(-logits)[: config.active_experts]
        shares = np.exp(logits[chosen] - logits[chosen].max())
        results = [
            self._gated(x, *(f"{name}{part}" for part in expert_names(expert))) for expert in chosen
        ]
        return np.einsum("e,en->n", shares / shares.sum(), np.stack(results))

    def _gated(self, x: NDArray, gate: str, up: str, down: str) -> NDArray:
        gates = self._linear(x, gate)
        if self._config.activation == "gelu_tanh":
            inner = np.sqrt(2 / np.pi) * (gates + 0.044715 * gates**3)
            active = gates * (1 + np.tanh(inner)) / 2
        else:
            active = gates / (1 + np.exp(-gates))
        return self._linear(active * self._linear(x, up), down)

    def _dense(self, name: str) -> NDArray:
        value = self._parameters(name)
        assert value is not None
        dense = value.dense() if isinstance(value, QuantizedRows) else value
        return dense.astype(np.float64)

    def _norm(self, x: NDArray, name: str) -> NDArray:
        return x / np.sqrt(np.mean(x * x) + self._config.norm_epsilon) * self._dense(name)

    def _linear(self, x: NDArray, name: str) -> NDArray:
        product = self._dense(f"{name}.weight") @ x
        bias = self._parameters(f"{name}.bias")
        return product if bias is None else product + bias

    def _rotated(self, index: int, part: str, heads: NDArray) -> NDArray:
        """Return heads of queries or keys at the next position of a layer."""
        config, position = self._config, len(self.values[index])
        if config.head_norms:
            name = f"{layer(index)}self_attn.{part}_norm.weight"
            heads = np.stack([self._norm(head, name) for head in heads])
        tables = config.rotary_tables(config.is_local(index))
        cosines, sines = (np.float64(table[position]) for table in tables)
        pairs = cosines.size
        first, second = heads[:, :pairs], heads[:, pairs : 2 * pairs]
        turned = (first * cosines - second * sines, second * cosines + first * sines)
        return np.concatenate([*turned, heads[:, 2 * pairs :]], axis=1)

    def _attend(self, index: int, x: NDArray) -> NDArray:
        config, name = self._config, f"{layer(index)}self_attn"
        q, k, v = (
            self._linear(x, f"{name}.{part}").reshape(-1, config.head_size)
            for part in ("q_proj", "k_proj", "v_proj")
        )
        position, window = len(self.keys[index]), config.window_of(index)
        q, k = self._rotated(index, "q", q), self._rotated(index, "k", k)
        self.keys[index].append(k)
        self.values[index].append(v)
        first = max(0, position + 1 - window) if window else 0
        keys = np.stack(self.keys[index][first:], axis=1)
        values = np.stack(self.values[index][first:], axis=1)
        group = config.heads // config.kv_heads
        keys, values = (np.repeat(cache, group, axis=0) for cache in (keys, values))
        scale = config.attention_scale or config.head_size**-0.5
        scores = _limited(np.einsum("hd,htd->ht", q, keys) * scale, config.softcap)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = scores / scores.sum(axis=1, keepdims=True)
        return self._linear(np.einsum("ht,htd->hd", shares, values).ravel(), f"{name}.o_proj")


def _limited(values: NDArray, cap: float) -> NDArray:
    return np.tanh(values / cap) * cap if cap else values
