"""Quantized linear layers on a few rows: output channels in the lanes of dot products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tvm_sparse.cpu.integers import dot_products
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import LAUNCH_CYCLES, loads_per_cycle
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.integers import DOT_SHARE, IntegerFamily, dots_of
from tvm_sparse.tilings.jobs import waiting
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.row_linear import RowTiling, delivery_cycles, most_rows

VECTORS = 8
"""Vectors of a tile on one row: sums that hide the latency of a dot product."""


@dataclass(frozen=True)
class Int8RowTiling(RowTiling):
    """How a quantized layer on a few rows is cut."""


class Int8RowFamily(IntegerFamily[Linear, Int8RowTiling]):
    """Quantized linear layers on panels of one lane, which consist of words."""

    name = "int8_row_linear"
    sizes, tiling, on_matrix_unit = Linear, Int8RowTiling, False

    def refusal(self, layer: Layer[Any], cpu: CpuProfile) -> str:
        """Return why the family cannot compute a layer; an empty string if it can."""
        reason = super().refusal(layer, cpu)
        return reason or ("" if layer.is_dynamic else "the kernel takes words of integers")

    def takes_wide(self, cpu: CpuProfile) -> bool:
        """Return that the kernel of bytes takes no weights that do not fit."""
        del cpu
        return False

    def refusal_of_sizes(self, problem: Linear, cpu: CpuProfile) -> str:
        """Return why the kernel cannot compute a layer; an empty string if it can."""
        if problem.lanes != 1:
            return "the kernel takes panels of one lane"
        lanes = dots_of(cpu).lanes
        return "" if problem.n >= lanes else f"{problem.n} channels do not fill {lanes} lanes"

    def cuts_evenly(self, problem: Linear, tiling: Int8RowTiling) -> bool:
        """Return whether a layer has as many output channels as a tile."""
        return tiling.units <= problem.n

    def default(self, layer: Layer[Linear], cpu: CpuProfile) -> Int8RowTiling:
        """Return the tile with sums for all rows, of `VECTORS` vectors if they fit."""
        problem, width = layer.problem, dots_of(cpu).lanes
        rows = min(int(problem.rows), most_rows(cpu))
        vectors = max(min(VECTORS, cpu.vector_registers * 3 // 4 // rows, problem.n // width), 1)
        tiling = Int8RowTiling(width, vectors, rows, 1)
        alone = self.cycles(layer, tiling, replace(cpu, cores=1))
        pays = alone * (1 - 1 / cpu.cores) > LAUNCH_CYCLES
        return replace(tiling, jobs=cpu.cores if pays else 1)

    def tilings(self, layer: Layer[Linear], cpu: CpuProfile) -> Iterator[Int8RowTiling]:
        """Yield tiles of several vectors that the registers hold."""
        default = self.default(layer, cpu)
        most = cpu.vector_registers * 3 // 4 // default.rows
        for vectors in range(1, min(most, layer.problem.n // default.width) + 1):
            yield replace(default, vectors=vectors)

    def cycles(self, layer: Layer[Linear], tiling: Int8RowTiling, cpu: CpuProfile) -> float:
        """Return the expected cycles of a layer, summed over the cores.

        They are the loads, the dot products or the delivery of the weight, whichever takes longer.
        """
        problem, dots = layer.problem, dots_of(cpu)
        rows, steps = int(problem.rows), tiling.tiles(problem.n) * -(-problem.k // dots.per_word)
        loads = steps * (tiling.vectors * -(-rows // tiling.rows) + rows)
        products = steps * tiling.vectors * rows * (1 if dots.adds else 2)
        work = max(loads / loads_per_cycle(cpu), products / 2 / DOT_SHARE)
        delivery = delivery_cycles(problem.n * problem.k * 4 / dots.per_word, cpu)
        return max(work, delivery) * waiting(tiling.jobs, cpu)

    def register_tile(self, tiling: Int8RowTiling) -> tuple[object, ...]:
        """Return vectors and rows."""
        return tiling.vectors, tiling.rows

    def takes(self, problem: Linear, cpu: CpuProfile, *, is_wide: bool) -> bool:
        """Return whether the kernel computes a layer once its input consists of words."""
        layer = Layer(problem, is_quantized=True, is_dynamic=True, is_wide=is_wide)
        return dot_products(cpu) is not None and not self.refusal(layer, cpu)


INT8_ROW_FAMILY = Int8RowFamily()
