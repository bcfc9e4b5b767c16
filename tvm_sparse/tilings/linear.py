"""Dense linear layers: how their output channels and lanes are cut, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.registers import dense_step_cycles, most_channels

DENSE_SHARE = 0.85
"""Share of the FMA peak that the kernel reaches with its default tile. Measured on a Xeon: 0.82 to
0.88, in AVX-512 and AVX2 code."""

DEFAULT_VECTORS = 2
"""Vectors of the default tile: loading a weight then serves two multiply-adds."""


@dataclass(frozen=True)
class LinearTiling:
    """Register tile of a dense linear layer.

    Attributes
    ----------
    channels : int
        Output channels of a tile.
    vectors : int
        Vectors of lanes of a tile; where a row has one vector, as many rows.
    """

    channels: int
    vectors: int


class LinearFamily(Family[Linear, LinearTiling]):
    """Dense linear layers."""

    name = "linear"
    sizes, tiling = Linear, LinearTiling

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return that panels of one lane have another kernel; an empty string for other panels."""
        del cpu
        return "" if problem.lanes > 1 else "the kernel takes panels of several lanes"

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> LinearTiling:
        """Return two vectors by as many channels as the registers hold besides the weights.

        Fewer channels, but more than half as many, are taken if they divide the layer's better.
        """
        n, most = layer.problem.n, most_channels(DEFAULT_VECTORS, cpu, layer.problem.dtype)
        if n <= most:
            return LinearTiling(n, DEFAULT_VECTORS)
        sizes = range(most, most // 2, -1)
        return LinearTiling(min(sizes, key=lambda channels: -n % channels), DEFAULT_VECTORS)

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[LinearTiling]:
        """Yield tiles of one to four vectors that fill more than half of the registers."""
        for vectors in (1, 2, 3, 4):
            most = min(most_channels(vectors, cpu, layer.problem.dtype), layer.problem.n)
            for channels in range(most, most // 2, -1):
                yield LinearTiling(channels, vectors)

    def cycles(self, layer: Layer[Linear], tiling: LinearTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are the multiply-adds at `DENSE_SHARE` of the peak. The share was measured with the
        default tile; with another one, the cycles grow as those of the inner loops do, which loads
        and multiply-adds determine.
        """
        problem = layer.problem
        vectors = problem.lanes / cpu.vector_width(problem.lanes, problem.dtype)
        measured = problem.rows * problem.n * problem.k * vectors / FMA_PER_CYCLE / DENSE_SHARE
        default = self.default(layer, cpu)
        loops = _loop_cycles(problem, tiling, cpu) / _loop_cycles(problem, default, cpu)
        return measured * loops

    def register_tile(self, tiling: LinearTiling) -> tuple[object, ...]:
        """Return output channels and vectors."""
        return tiling.channels, tiling.vectors


LINEAR_FAMILY = LinearFamily()


def _loop_cycles(problem: Linear, tiling: LinearTiling, cpu: CpuProfile) -> float:
    """Return the cycles of the inner loops for one input channel."""
    vectors = problem.lanes // cpu.vector_width(problem.lanes, problem.dtype)
    if vectors == 1:
        tile = min(tiling.vectors, problem.rows)
        tiles = [tile] * -(-problem.rows // tile)
    else:
        firsts = range(0, vectors, tiling.vectors)
        tiles = [min(tiling.vectors, vectors - first) for first in firsts] * problem.rows
    steps = sum(
        dense_step_cycles(tiling.channels, sources, 1, cpu, problem.dtype) for sources in tiles
    )
    return -(-problem.n // tiling.channels) * steps
