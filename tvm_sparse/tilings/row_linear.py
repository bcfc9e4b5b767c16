"""Linear layers on a few rows, dense and sparse: how they are cut, and what that costs.

Their panels have one lane. Every weight is used only a few times, so that the cache or the memory
that it comes from is often the limit, which the cycles of these families include.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE, LAUNCH_CYCLES, loads_per_cycle
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.windows import MOST_VECTORS, WINDOWS
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.jobs import waiting
from tvm_sparse.tilings.layer import Layer

DENSE_VECTORS = 8
"""Vectors of a dense tile on one row: sums that hide the latency of a multiply-add, 4 cycles of
which 2 begin in each."""

SPARE_REGISTERS = 4
"""Registers that the loop of a sparse kernel leaves to LLVM; with two, it spills some of 32."""

PLACE_BYTES = 1
"""Bytes that tell where the factor of a packed sparse value lies."""

FILL = {16: (1.2, 0.28), 8: (1.1, 0.44)}
"""``(a, b)`` for vectors of so many lanes: of the values of a packed sparse weight, the share ``a *
density ** b`` is no padding. Fitted to tiles of 4 vectors with random zeros, of which 0.48, 0.63,
0.78 and 0.84 are used at 95, 90, 80 and 70 % zeros with AVX-512, and 0.26, 0.40, 0.55 and 0.67 with
AVX2."""


@dataclass(frozen=True)
class RowTiling:
    """How a layer on a few rows is cut.

    Attributes
    ----------
    width : int
        Output channels of a vector.
    vectors : int
        Vectors of a tile.
    rows : int
        Most rows that are computed together.
    jobs : int
        Equal parts of the tiles for different threads.
    """

    width: int
    vectors: int
    rows: int
    jobs: int

    @property
    def units(self) -> int:
        """Output channels of a tile."""
        return self.width * self.vectors

    def tiles(self, channels: int) -> int:
        """Return the tiles of a layer; the last one overlaps the one before it."""
        return -(-channels // self.units)


@dataclass(frozen=True)
class SparseRowTiling(RowTiling):
    """How a layer on a few rows with a `WindowSparse` weight is cut."""


class RowLinearFamily(Family[Linear, RowTiling]):
    """Dense linear layers on panels of one lane."""

    name = "row_linear"
    sizes, tiling = Linear, RowTiling

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return that panels have several lanes; an empty string if they have one."""
        del cpu
        return "" if problem.lanes == 1 else "the kernel takes panels of one lane"

    def cuts_evenly(self, problem: Linear, tiling: RowTiling) -> bool:
        """Return whether a layer has as many output channels as a tile."""
        return tiling.units <= problem.n

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> RowTiling:
        """Return the tile with sums for all rows, of `DENSE_VECTORS` vectors if they fit."""
        problem = layer.problem
        width = cpu.vector_lanes(problem.dtype)
        while width > problem.n:
            width //= 2
        rows = min(problem.rows, most_rows(cpu))
        vectors = min(DENSE_VECTORS, cpu.vector_registers * 3 // 4 // rows, problem.n // width)
        tiling = RowTiling(width, vectors, rows, 1)
        return replace(tiling, jobs=_jobs(self.cycles(layer, tiling, replace(cpu, cores=1)), cpu))

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[RowTiling]:
        """Yield tiles of several vectors that the registers hold."""
        default = self.default(layer, cpu)
        most = cpu.vector_registers * 3 // 4 // default.rows
        for vectors in range(1, min(most, layer.problem.n // default.width) + 1):
            for jobs in (1, cpu.cores):
                yield replace(default, vectors=vectors, jobs=jobs)

    def cycles(self, layer: Layer[Linear], tiling: RowTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are the loads, the multiply-adds or the delivery of the weight, whichever takes
        longer.
        """
        problem = layer.problem
        rows, steps = problem.rows, tiling.tiles(problem.n) * problem.k
        loads = steps * (tiling.vectors * -(-rows // tiling.rows) + rows)
        multiply_adds = steps * tiling.vectors * rows
        work = max(loads / loads_per_cycle(cpu), multiply_adds / FMA_PER_CYCLE)
        delivery = delivery_cycles(problem.n * problem.k * problem.weight_dtype.bytes, cpu)
        return max(work, delivery) * waiting(tiling.jobs, cpu)

    def register_tile(self, tiling: RowTiling) -> tuple[object, ...]:
        """Return vectors and rows."""
        return tiling.vectors, tiling.rows


class SparseRowLinearFamily(Family[Linear, SparseRowTiling]):
    """Sparse linear layers on panels of one lane."""

    name = "sparse_row_linear"
    is_sparse = True
    sizes, tiling = Linear, SparseRowTiling

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return why the kernel cannot compute a layer; an empty string if it can."""
        if problem.lanes != 1:
            return "the kernel takes panels of one lane"
        if not permutes_windows(cpu):
            return "the sparse kernel of a few rows needs AVX-512 or AVX2"
        if problem.dtype != DType.FLOAT32:
            return f"the sparse kernel of a few rows permutes float32, not {problem.dtype}"
        width = cpu.vector_lanes(problem.dtype)
        if problem.n < width or problem.k < WINDOWS[width]:
            return f"{problem.k} x {problem.n} is too small for the sparse kernel of a few rows"
        return ""

    def cuts_evenly(self, problem: Linear, tiling: SparseRowTiling) -> bool:
        """Return whether a layer has as many output channels as a tile."""
        return tiling.units <= problem.n

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> SparseRowTiling:
        """Return a tile of as many vectors as share the places of a step.

        The registers hold, besides the sums, their places and the factors of a window.
        """
        problem = layer.problem
        width, rows = cpu.vector_lanes(problem.dtype), min(problem.rows, most_rows(cpu))
        factors = WINDOWS[width] // width
        held = cpu.vector_registers - SPARE_REGISTERS - factors
        vectors = max(min(MOST_VECTORS, held // (rows + 1), problem.n // width), 1)
        tiling = SparseRowTiling(width, vectors, rows, 1)
        jobs = _jobs(self.cycles(layer, tiling, replace(cpu, cores=1)), cpu)
        return replace(tiling, jobs=jobs)

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[SparseRowTiling]:
        """Yield tiles of one vector or more."""
        default = self.default(layer, cpu)
        for vectors in range(1, default.vectors + 1):
            for jobs in (1, cpu.cores):
                yield replace(default, vectors=vectors, jobs=jobs)

    def cycles(self, layer: Layer[Linear], tiling: SparseRowTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are the loads, the permutations or the delivery of the weight, whichever takes longer.
        A window begins anywhere, so that most of its vectors lie in two cache lines each.
        """
        problem, (factor, power) = layer.problem, FILL[tiling.width]
        fill = min(factor * max(layer.density, 1e-3) ** power, 1.0)
        values = problem.n * problem.k * layer.density / fill
        steps = values / tiling.units
        factors = 2 * (WINDOWS[tiling.width] // tiling.width) * problem.rows
        loads = steps * (1 + tiling.vectors + factors)
        permutations = steps * tiling.vectors * problem.rows
        work = max(loads / loads_per_cycle(cpu), permutations)
        delivery = delivery_cycles(values * (problem.dtype.bytes + PLACE_BYTES), cpu)
        return max(work, delivery) * waiting(tiling.jobs, cpu)

    def register_tile(self, tiling: SparseRowTiling) -> tuple[object, ...]:
        """Return vectors and rows."""
        return tiling.vectors, tiling.rows


ROW_LINEAR_FAMILY = RowLinearFamily()
SPARSE_ROW_LINEAR_FAMILY = SparseRowLinearFamily()


def permutes_windows(cpu: CpuProfile) -> bool:
    """Return whether an instruction permutes vectors by places that are in another vector."""
    return cpu.architecture == "x86_64" and cpu.vector_lanes() in WINDOWS


def most_rows(cpu: CpuProfile) -> int:
    """Return the most rows that are faster with channels in the lanes than with tokens there.

    Measured with 2048 x 2816: six rows with AVX-512 and three with AVX2 take less than half of the
    time dense, and 0.7 of it with AVX-512 at 90 % zeros. Eight rows gain nothing with AVX-512.
    """
    return max(cpu.vector_lanes() * 3 // 8, 1)


def delivery_cycles(size: float, cpu: CpuProfile) -> float:
    """Return the cycles, summed over the cores, in which caches or memory deliver some bytes.

    Parameters
    ----------
    size : float
        Bytes that are read once in an inference. Until the next one, those of other layers have
        passed through a core's own caches.
    cpu : CpuProfile
        The processor.
    """
    system = cpu.memory_system
    level = system.l3 if size <= (cpu.l3_bytes or 0) else system.memory
    return size / level.per_core(cpu.cores).read * system.clock_hz


def _jobs(cycles: float, cpu: CpuProfile) -> int:
    """Return as many jobs as cores if what they save pays for starting them, else one."""
    return cpu.cores if cycles * (1 - 1 / cpu.cores) > LAUNCH_CYCLES else 1
