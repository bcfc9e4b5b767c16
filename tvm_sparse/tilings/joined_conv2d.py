"""Sparse convolutions whose vectors span several rows of narrow images: tilings and costs.

Linear layers on panels of few lanes are such convolutions, too, with a kernel of 1x1.

The constants were fitted to 92 tilings of layers of ResNet-50 with 80 to 95 % zeros, in float16 and
float32, on a Xeon with AVX512-FP16. They give the times within 6 % (one standard deviation), apart
from a factor that makes the cycles comparable with those of the other families.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import CACHE_LINE_BYTES
from tvm_sparse.formats.joined import JoinedLinearTiling, JoinedTiling, joined_window
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.joined_window import JoinedWindow, joins_rows
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.jobs import waiting
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.registers import accumulates, sparse_accumulators
from tvm_sparse.tilings.sparse_groups import OFFSETS_PER_LOAD, offsets_per_load

LOADS_PER_CYCLE = 1.65
"""Cache lines a cycle that the inner loop loads."""

PARTIAL_SUM_CYCLES = 3.6
"""Cycles to load and store a vector of partial sums, with a share of the start of a group."""

ROW_CYCLES = 3.0
"""Cycles to cut a row of results out of a vector and to store it."""

GATHER_CYCLES = 1.3
"""Cycles to store a row of a plane of the window."""

L1_SHARE = 0.9
"""Share of the L1 cache that a window may fill."""

L1_EXCESS = 1.2
"""Share of the inner loop's time by which it grows if a window exceeds `L1_SHARE` by a whole L1."""

L1_SHARES = (0.4, 0.8, 1.2)
"""Windows of K blocks that are tried, as shares of the L1 cache."""

MOST_DENSITY = 0.5
"""Highest density of a weight. The models of dense kernels, which do not join rows, overstate their
cycles on narrow images by a third."""

MOST_VECTORS = 8
"""Most vectors of a tile: the code has a copy for each number of rows that a tile can have."""

STEP_COST = 0.005
"""Share of time that every further row of a tile is taken to cost in tensor columns, where stages
advance, and keep rows for one another, by whole tiles."""


class JoinedConv2dFamily(Family[Conv2d, JoinedTiling]):
    """Sparse convolutions of one group whose vectors hold several output rows."""

    name = "joined_conv2d"
    is_sparse = True
    sizes, tiling = Conv2d, JoinedTiling

    def refusal(self, layer: Layer[Any], cpu: CpuProfile) -> str:
        """Return a reason if the weight has few zeros, or one of `refusal_of_sizes`."""
        return super().refusal(layer, cpu) or _of_density(layer)

    def refusal_of_sizes(self, problem: Conv2d, cpu: CpuProfile) -> str:
        """Return a reason if there are several groups, or rows that fill half of a vector."""
        if problem.groups > 1:
            return "a convolution in groups has no sparse kernel"
        if not joins_rows(problem, cpu.vector_lanes(problem.dtype)):
            return "a vector holds one row"
        if next(_possible(problem, cpu), None) is None:
            return f"no sparse kernel reaches the inputs of {problem}"
        return ""

    def cuts_evenly(self, problem: Conv2d, tiling: JoinedTiling) -> bool:
        """Return whether a tiling cuts the channels of a layer into equal chunks."""
        return problem.out_channels % tiling.chunks == 0

    def default(self, layer: Layer[Conv2d], cpu: CpuProfile) -> JoinedTiling:
        """Return the tiling of the fewest cycles, with `STEP_COST` for the rows of its tile.

        Raises
        ------
        ValueError
            If the family refuses the layer.
        """
        return _default(layer.problem, layer.density, cpu)

    def tilings(self, layer: Layer[Conv2d], cpu: CpuProfile) -> Iterator[JoinedTiling]:
        """Yield the possible tilings, with half and twice the group."""
        for tiling in _possible(layer.problem, cpu):
            for group in {tiling.group, max(tiling.group // 2, 1), tiling.group * 2}:
                if accumulates(group * tiling.vectors, cpu):
                    yield replace(tiling, group=group)

    def cycles(self, layer: Layer[Conv2d], tiling: JoinedTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are those of the non-zeros, of the partial sums, of the rows that are cut out of
        vectors, and of the gathering; cores that wait for others in the end count as if they
        worked.
        """
        problem, window = layer.problem, joined_window(layer.problem, tiling)
        k_blocks = -(-problem.channels // window.channels)
        outputs, taps = problem.out_channels, problem.channels * math.prod(problem.kernel)
        of_weights = 1 + 1 / offsets_per_load(tiling.group, problem.dtype)
        line_share = _lines_per_load(window)
        whole, rest = divmod(problem.out_height, tiling.rows)
        loops, others = 0.0, 0.0
        for rows, tiles in ((tiling.rows, whole), (rest, 1)):
            vectors = window.vectors_of(rows)
            lines = -(-vectors // tiling.vectors) * of_weights + vectors * line_share
            loops += tiles * lines / LOADS_PER_CYCLE
            sums = (k_blocks - 1) * vectors * PARTIAL_SUM_CYCLES
            others += tiles * outputs * (sums + rows * ROW_CYCLES)
        held = problem.dtype.bytes * window.held / cpu.l1_bytes
        loops *= layer.density * outputs * taps * (1 + L1_EXCESS * max(held - L1_SHARE, 0))
        tiles = whole + (rest > 0)
        gathered = tiling.chunks * problem.channels * window.channel_pitch // window.pitch
        work = loops + others + tiles * gathered * GATHER_CYCLES
        return waiting(problem.batch * tiles * tiling.chunks, cpu) * problem.batch * work

    def register_tile(self, tiling: JoinedTiling) -> tuple[object, ...]:
        """Return channels of a group, rows, vectors, and whether the window is shifted."""
        return tiling.group, tiling.rows, tiling.vectors, tiling.shifted


class JoinedLinearFamily(Family[Linear, JoinedLinearTiling]):
    """Sparse linear layers on panels of few lanes, as convolutions with a kernel of 1x1."""

    name = "joined_linear"
    is_sparse = True
    sizes, tiling = Linear, JoinedLinearTiling

    def refusal(self, layer: Layer[Any], cpu: CpuProfile) -> str:
        """Return a reason if the weight has few zeros, or one of `refusal_of_sizes`."""
        return super().refusal(layer, cpu) or _of_density(layer)

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return a reason if the panels fill half of a vector, or have a single lane."""
        if problem.lanes == 1:
            return "the kernel takes panels of several lanes"
        if isinstance(problem.rows, Extent):
            return "the number of rows is not known"
        return JOINED_CONV2D_FAMILY.refusal_of_sizes(as_conv2d(problem), cpu)

    def cuts_evenly(self, problem: Linear, tiling: JoinedLinearTiling) -> bool:
        """Return whether a tiling cuts the channels of a layer into equal chunks."""
        return problem.n % tiling.chunks == 0

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> JoinedLinearTiling:
        """Return the tiling of the fewest cycles."""
        return _of_linear(JOINED_CONV2D_FAMILY.default(_as_convolution(layer), cpu))

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[JoinedLinearTiling]:
        """Yield the tilings of the convolution."""
        return map(_of_linear, JOINED_CONV2D_FAMILY.tilings(_as_convolution(layer), cpu))

    def cycles(self, layer: Layer[Linear], tiling: JoinedLinearTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores."""
        return JOINED_CONV2D_FAMILY.cycles(_as_convolution(layer), tiling, cpu)

    def register_tile(self, tiling: JoinedLinearTiling) -> tuple[object, ...]:
        """Return channels of a group, rows and vectors."""
        return tiling.group, tiling.rows, tiling.vectors


JOINED_CONV2D_FAMILY = JoinedConv2dFamily()
JOINED_LINEAR_FAMILY = JoinedLinearFamily()
JOINED_FAMILIES = (JOINED_LINEAR_FAMILY, JOINED_CONV2D_FAMILY)


def as_conv2d(problem: Linear) -> Conv2d:
    """Return the convolution that computes a linear layer, on one image of all rows."""
    return Conv2d(
        batch=1,
        channels=problem.k,
        height=problem.rows,
        width=problem.lanes,
        out_channels=problem.n,
        kernel=(1, 1),
        lanes_in=problem.lanes,
        lanes_out=problem.lanes,
        dtype=problem.dtype,
    )


def _of_density(layer: Layer[Any]) -> str:
    return "few zeros" if layer.density > MOST_DENSITY else ""


def _as_convolution(layer: Layer[Linear]) -> Layer[Conv2d]:
    return Layer(as_conv2d(layer.problem), layer.density)


def _of_linear(tiling: JoinedTiling) -> JoinedLinearTiling:
    return JoinedLinearTiling(**{f.name: getattr(tiling, f.name) for f in fields(tiling)})


@functools.cache
def _default(problem: Conv2d, density: float, cpu: CpuProfile) -> JoinedTiling:
    family, layer = JOINED_CONV2D_FAMILY, Layer(problem, density)
    reason = family.refusal(layer, cpu)
    if reason:
        raise ValueError(reason)

    def cost(tiling: JoinedTiling) -> float:
        return (1 + STEP_COST * (tiling.rows - 1)) * family.cycles(layer, tiling, cpu)

    return min(_possible(problem, cpu), key=cost)


def _possible(problem: Conv2d, cpu: CpuProfile) -> Iterator[JoinedTiling]:
    """Yield the tilings that the caches and the registers allow."""
    width = cpu.vector_lanes(problem.dtype)
    joined, kinds = JoinedWindow(problem, width, 1, shifted=True).joined, (False, True)
    for tiles in range(1, -(-problem.out_height // joined) + 1):
        rows = -(-problem.out_height // tiles)
        rows = min(-(-rows // joined) * joined, problem.out_height)
        if -(-problem.out_height // rows) != tiles or -(-rows // joined) > MOST_VECTORS:
            continue
        for shifted in kinds[: problem.kernel[1]]:
            one = JoinedWindow(problem, width, 1, shifted, tile_rows=rows)
            if one.joined < 2:
                continue
            for tiling in _cuts(problem, one, cpu):
                yield replace(tiling, rows=rows, width=width, shifted=shifted)


def _cuts(problem: Conv2d, one: JoinedWindow, cpu: CpuProfile) -> Iterator[JoinedTiling]:
    """Yield the cuts of the channels and of the vectors of a tile, by its window of one channel."""
    tiles = problem.batch * -(-problem.out_height // one.tile_rows)
    chunks = cpu.cores // math.gcd(cpu.cores, tiles)
    depths = set()
    for share in L1_SHARES:
        elements = min(int(share * cpu.l1_bytes) // problem.dtype.bytes, (1 << 16) - 1)
        reach = min(elements // one.channel_pitch - 1, problem.channels)
        if reach >= 1:
            depths.add(-(-problem.channels // -(-problem.channels // reach)))
    for pieces in {-(-one.vectors // most) for most in range(1, one.vectors + 1)}:
        vectors = -(-one.vectors // pieces)
        group = max(sparse_accumulators(cpu) // vectors // OFFSETS_PER_LOAD, 1) * OFFSETS_PER_LOAD
        if not accumulates(group * vectors, cpu):
            continue
        for depth in depths:
            for n in {1, chunks if problem.out_channels % chunks == 0 else 1}:
                yield JoinedTiling(group, depth, n, vectors=vectors)


def _lines_per_load(window: JoinedWindow) -> float:
    """Return how many cache lines a load of a vector touches on average."""
    kh, kw = window.problem.kernel
    line, front = CACHE_LINE_BYTES // window.problem.dtype.bytes, window.front - window.lead
    places = [
        front + window.offset(channel, dy, dx)
        for channel in range(min(window.channels, 4))
        for dy in range(kh)
        for dx in range(kw)
    ]
    return 1 + sum(place % line > 0 for place in places) / len(places)
