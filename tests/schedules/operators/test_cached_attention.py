"""The kernel of attention with a cache, against NumPy."""

import dataclasses

import numpy as np
import pytest
import tvm

from tvm_sparse import schedules
from tvm_sparse.building import build
from tvm_sparse.cpu.profile import native
from tvm_sparse.runtime.cache_arrays import CacheArrays
from tvm_sparse.sizes.cached_attention import STATE_COLUMNS, CachedAttention, blocks_for
from tvm_sparse.sizes.decoder import CacheSpec

GROUPED = CachedAttention(tokens=4, heads=6, kv_heads=2, head_dim=16, scale=0.25)


class Sequence:
    """All tokens of a sequence so far, in NumPy."""

    def __init__(self, problem):
        self.problem, self.q, self.k, self.v = problem, [], [], []

    def append(self, name, rows):
        heads = self.problem.heads if name == "q" else self.problem.kv_heads
        rows = rows.reshape(-1, heads, self.problem.head_dim).astype("float64")
        getattr(self, name).extend(rows)

    def rotated(self, rows, cos, sin):
        rows, half = np.array(rows), self.problem.rotated // 2
        if not half:
            return rows
        first, second = (
            (np.arange(half) * 2, np.arange(half) * 2 + 1)
            if self.problem.interleaved
            else (np.arange(half), np.arange(half) + half)
        )
        at = np.minimum(np.arange(len(rows)), len(cos) - 1)
        c, s, result = cos[at][:, None], sin[at][:, None], rows.copy()
        a, b = rows[..., first], rows[..., second]
        result[..., first], result[..., second] = a * c - b * s, b * c + a * s
        return result

    def attended(self, count, cos=None, sin=None, sinks=None, slopes=None):
        """Return what the last `count` tokens see."""
        problem = self.problem
        q, k = self.rotated(self.q, cos, sin)[-count:], self.rotated(self.k, cos, sin)
        v, result = np.array(self.v), []
        for i, row in enumerate(q):
            end = len(k) - count + i + 1
            first = max(0, end - problem.window) if problem.window else 0
            keys, values = (np.repeat(x[first:end], problem.group, 1) for x in (k, v))
            scores = np.einsum("hd,phd->hp", row, keys) * problem.scale
            if problem.softcap:
                scores = np.tanh(scores / problem.softcap) * problem.softcap
            if slopes is not None:
                scores += slopes[:, None] * np.arange(1 - len(keys), 1)
            sink = np.full(problem.heads, -np.inf) if sinks is None else sinks.astype("float64")
            scores = np.concatenate([scores, sink[:, None]], 1)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights = weights[:, :-1] / weights.sum(1, keepdims=True)
            result.append(np.einsum("hp,phd->hd", weights, values).reshape(-1))
        return np.array(result)


PROBLEMS = {
    "grouped": GROUPED,
    "one head each": dataclasses.replace(GROUPED, kv_heads=6),
    "one head of keys": dataclasses.replace(GROUPED, kv_heads=1),
    "three heads of keys": dataclasses.replace(GROUPED, kv_heads=3, tokens=1),
    "window": dataclasses.replace(GROUPED, window=9),
    "window below a step": dataclasses.replace(GROUPED, window=2),
    "softcap": dataclasses.replace(GROUPED, softcap=2.0),
    "rotated": dataclasses.replace(GROUPED, rotated=16),
    "partly rotated": dataclasses.replace(GROUPED, rotated=8, interleaved=True),
    "packed": dataclasses.replace(GROUPED, packed=True, rotated=16),
    "sinks": dataclasses.replace(GROUPED, sinks=True, rotated=16),
    "sinks, two parts": dataclasses.replace(GROUPED, kv_heads=1, sinks=True),
    "slopes": dataclasses.replace(GROUPED, slopes=True, window=40),
    "slopes, sinks, two parts": dataclasses.replace(GROUPED, kv_heads=1, slopes=True, sinks=True),
    "half": dataclasses.replace(GROUPED, cache="float16"),
    "bytes": dataclasses.replace(GROUPED, cache="int8", rotated=16),
    "bytes, odd head, window": dataclasses.replace(GROUPED, cache="int8", head_dim=20, window=9),
    "odd head": dataclasses.replace(GROUPED, head_dim=20, rotated=6),
    "wide": CachedAttention(16, heads=8, kv_heads=1, head_dim=64, scale=0.125, rotated=64),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_numpy(name):
    """Steps of several lengths and sequences give what all tokens of a sequence together give."""
    problem, rng = PROBLEMS[name], np.random.default_rng(0)
    angles = rng.uniform(-3, 3, (200, max(problem.rotated // 2, 1)))
    tables = [np.cos(angles).astype("float32"), np.sin(angles).astype("float32")]
    sinks = rng.uniform(-2, 8, problem.heads).astype("float32") if problem.sinks else None
    slopes = rng.uniform(-0.2, 0.7, problem.heads).astype("float32") if problem.slopes else None
    cpu = dataclasses.replace(native(), cores=2)
    func = schedules.cached_attention(problem, 200, cpu)
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    kernel = build(module, cpu.to_target())["main"]
    widths = [problem.heads * problem.head_dim] + [problem.kv_heads * problem.head_dim] * 2
    sequences = [Sequence(problem) for _ in range(SEQUENCES)]
    memories = [caches_of(problem, 150 + 70 * i) for i in range(SEQUENCES)]
    for counts in steps_of(problem):
        state, places = state_of(problem, sequences, memories, counts)
        rows = [
            rng.standard_normal((1, problem.tokens, width)).astype("float32") for width in widths
        ]
        first = 0
        for sequence, count in zip(sequences, counts, strict=False):
            for operand, x in zip("qkv", rows, strict=True):
                sequence.append(operand, x[0, first : first + count])
            first += count
        inputs = [np.concatenate(rows, -1)] if problem.packed else rows
        inputs = [
            *inputs,
            *(tables if problem.rotated else []),
            *([sinks] if problem.sinks else []),
            *([slopes] if problem.slopes else []),
        ]
        y = tvm.runtime.tensor(np.full((1, problem.tokens, widths[0]), np.nan, "float32"))
        kernel(*map(tvm.runtime.tensor, [*inputs, places, state]), y)
        tolerance, first = {"float16": 3e-3, "int8": 3e-2}.get(problem.cache, 2e-5), 0
        for sequence, count in zip(sequences, counts, strict=False):
            expected = sequence.attended(count, *tables, sinks, slopes)
            found = y.numpy()[0, first : first + count]
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
            first += count
        assert not y.numpy()[0, first:].any()


SEQUENCES = 3


def steps_of(problem):
    """Return how many tokens of each sequence are in a call: up to position 150 in the first."""
    steps, most = [[3], [1], [4], [1, 1], [2, 1], [1, 2, 1]], problem.tokens
    steps += [[most]] * (135 // most) + [[1, 1, 1], [1, 1, 2]]
    return [counts for counts in steps if sum(counts) <= most]


def caches_of(problem, tokens):
    spec = CacheSpec(problem.kv_heads, problem.head_dim, problem.cache)
    return CacheArrays(spec, blocks_for(tokens)).elements


def state_of(problem, sequences, memories, counts):
    state = np.zeros((problem.tokens, STATE_COLUMNS), "int32")
    places = np.zeros((2, problem.tokens), "int64")
    state[:, 1], first = -1, 0
    for i, count in enumerate(counts):
        position = len(sequences[i].k)
        state[first : first + count, 0] = position + np.arange(count)
        state[first : first + count, 1] = i
        state[i, 2:] = first, count, memories[i][0].shape[1]
        places[:, i] = [cache.ctypes.data for cache in memories[i]]
        first += count
    return state, places
