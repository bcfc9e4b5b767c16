"""Layer normalization on row panels: every lane is normalized over the channels of its panel.

``y = (x - mean) / sqrt(variance + epsilon) * gamma + beta`` takes three passes over a strip of
lanes, which stays in the cache: the first computes the mean, the second the mean and the variance
of the distance to that mean, and the third the result. The second pass takes back the rounding
error of the first, so that a mean much larger than the deviation costs no digits (Chan, Golub,
LeVeque, Algorithms for Computing the Sample Variance, The American Statistician 37, 1983: the
corrected two-pass algorithm).

Of float16 panels, the statistics are in float32, too. The mean of a few channels takes the place of
the first pass: the values have so few digits that the distance to a number near the mean is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.costs.vectors import vector_cycles, vectors_of
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import line_elements
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.schedules.emit.buffers import Registers, argument, converted, number
from tvm_sparse.schedules.emit.buffers import vector as vector_at
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

CHAINS = 8
"""Independent sums, which hide the latency of an addition: 4 cycles, with two additions a cycle."""

STATISTICS = DType.FLOAT32
"""Type of the sums, and of all arithmetic."""

SAMPLED_CHANNELS = 8
"""Channels of float16 panels whose mean the others are measured from. Several, because trained
networks have channels that are hundreds of deviations away from the others."""


def layer_norm(
    rows: int,
    channels: int,
    lanes: int,
    epsilon: float,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a layer normalization, parallel over rows and strips of lanes.

    Parameters
    ----------
    rows, channels, lanes : int
        Shape of the panels.
    epsilon : float
        Added to the variance.
    cpu : CpuProfile
        Gives the vector length.
    dtype : DType
        Type of the panels.

    Returns
    -------
    PrimFunc
        ``(x [rows, channels, lanes], gamma [channels], beta [channels], y [rows, channels,
        lanes])``, gamma and beta float32, x and y of type `dtype`.
    """
    return kernel(LayerNorm(Tensor(1, rows, channels, lanes, dtype), epsilon, cpu))


class LayerNorm(Stage):
    """A layer normalization; its chunks are strips of lanes.

    Parameters
    ----------
    tensor : Tensor
        The panels. Which image a row belongs to does not matter here.
    epsilon : float
        Added to the variance.
    cpu : CpuProfile
        Gives the vector length.
    """

    name = "layer_norm"

    def __init__(self, tensor: Tensor, epsilon: float, cpu: CpuProfile) -> None:
        self.tensor, self.epsilon, self.cpu = tensor, epsilon, cpu
        self.panels = {"x": (tensor, RowMap())}
        self.width = math.gcd(tensor.lanes, cpu.vector_lanes(STATISTICS))
        self.strip = math.gcd(tensor.lanes, max(line_elements(tensor.dtype), self.width))
        self.vectors = self.strip // self.width
        self.unroll = min(max(CHAINS // self.vectors, 1), tensor.channels)
        self.chunks = tensor.lanes // self.strip

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the panels, gamma and beta."""
        self.x = panels("x")
        self.gamma = argument("gamma", self.tensor.channels)
        self.beta = argument("beta", self.tensor.channels)

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the chains of two sums."""
        super().allocate(run_rows)
        count, terms = self.vectors * self.unroll, 2
        self.chains = [Registers(count, self.width, STATISTICS) for _ in range(terms)]

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        for row, _ in self.each_tile(first, end):
            x, tile = self.x.tile(image, row), y.tile(image, row)
            with self.each_chunk(chunk) as strip:
                self._normalize(x, tile, T.bind(strip * self.strip))

    def _normalize(self, x: Tile, y: Tile, first: Expr) -> None:
        """Normalize the lanes of a strip."""

        def lanes(v: int) -> Expr:
            return vector_at(first + v * self.width, self.width)

        def value(channel: Expr, v: int) -> Expr:
            return converted(x[0, channel, lanes(v)], STATISTICS)

        def distance(channel: Expr, v: int) -> Expr:
            return value(channel, v) - mean[v]

        def squared(channel: Expr, v: int) -> Expr:
            d = T.bind(distance(channel, v))
            return d * d

        if self.tensor.dtype == STATISTICS:
            (mean,) = self._averages(value)
        else:
            mean = self._mean_of_some(value)
        shift, square = self._averages(distance, squared)
        scale = []
        for v in range(self.vectors):
            variance = square[v] - shift[v] * shift[v]
            deviation = T.sqrt(variance + self._across(number(self.epsilon)))
            scale.append(T.bind(self._across(number(1)) / deviation))
        with T.serial(T.int64(0), T.int64(self.tensor.channels)) as channel:
            for v in range(self.vectors):
                normal = (distance(channel, v) - shift[v]) * scale[v]
                gamma, beta = self._across(self.gamma[channel]), self._across(self.beta[channel])
                result = converted(normal * gamma + beta, self.tensor.dtype)
                y.store(result, 0, channel, lanes(v))

    def _mean_of_some(self, value: Callable[[Expr, int], Expr]) -> list[Expr]:
        """Average `value` over a few channels, for every vector of the strip."""
        channels = self.tensor.channels
        count = min(SAMPLED_CHANNELS, channels)
        sampled = [T.int64(i * channels // count) for i in range(count)]
        share = self._across(number(1 / count))
        return [
            T.bind(_sum([value(channel, v) for channel in sampled]) * share)
            for v in range(self.vectors)
        ]

    def _averages(self, *terms: Callable[[Expr, int], Expr]) -> list[list[Expr]]:
        """Average each ``term(channel, v)`` over the channels, for every vector v of the strip."""
        channels, unroll = self.tensor.channels, self.unroll
        every = [
            (t, v, i) for i in range(unroll) for v in range(self.vectors) for t in range(len(terms))
        ]
        for t, v, i in every:
            self.chains[t][v * unroll + i] = self._across(number(0))

        def add(first: Expr, count: int) -> None:
            for t, v, i in every:
                if i < count:
                    chain, at = self.chains[t], v * unroll + i
                    chain[at] = chain[at] + terms[t](first + i, v)

        with T.serial(T.int64(0), T.int64(channels // unroll)) as group:
            add(group * unroll, unroll)
        add(T.int64(channels - channels % unroll), channels % unroll)
        share = self._across(number(1 / channels))
        return [
            [
                T.bind(_sum([chain[v * unroll + i] for i in range(unroll)]) * share)
                for v in range(self.vectors)
            ]
            for chain in self.chains[: len(terms)]
        ]

    def _across(self, value: Expr) -> Expr:
        return T.Broadcast(value, self.width)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""
        # The last pass loads gamma and beta, too.
        whole = vectors_of(replace(self.tensor, dtype=STATISTICS), self.cpu)
        if self.tensor.dtype == STATISTICS:
            return vector_cycles(whole, loads=5, stores=1, operations=9)
        return vector_cycles(whole, loads=4, stores=1, operations=10)

    def weight_bytes(self) -> int:
        """Return the bytes of gamma and beta."""
        return 2 * STATISTICS.bytes * self.tensor.channels


def _sum(values: list[Expr]) -> Expr:
    """Return the sum, added up in pairs, which is a shorter chain and rounds less."""
    half = len(values) // 2
    return values[0] if not half else _sum(values[:half]) + _sum(values[half:])
