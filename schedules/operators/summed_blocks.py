"""The frame of the kernels of few bits whose blocks of input channels have a scale.

Integers are summed in registers until a block ends, a tile of rows after the other. The part of a
group comes from L1 or L2 for the second tile and the next ones::

    for rows that fit in registers:
        for step of input channels:
            products[row, :] += codes[group, step, :] * integers[row, step]
            if a block ends:
                totals[row, :] += w_scale[group, block] * scale[row, block] * products[row, :]
                products = 0
        y[row, group] = totals[row, :]

A loop over the steps of one block would be unrolled by LLVM, which then keeps the products of
several steps in memory.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from tvm.tirx.script import builder as T

from tvm_sparse.formats.groups import GROUP
from tvm_sparse.schedules.emit import row_dots
from tvm_sparse.schedules.emit.buffers import Registers, across, argument, filled, vector
from tvm_sparse.schedules.emit.tiles import each_tile
from tvm_sparse.schedules.operators.packed_rows import Declared, PackedProduct, Store
from tvm_sparse.sizes.block_linear import PLANES

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.cpu.row_dots import RowDots
    from tvm_sparse.schedules.emit.rounded_rows import RoundedRows
    from tvm_sparse.sizes.block_linear import BlockLinear
    from tvm_sparse.tilings.block_rows import BlockRowTiling

AHEAD_BYTES = 1024
"""How far ahead of the products a weight is asked for; from 1 to 4 KB are equally good."""


class SummedBlocks(PackedProduct):
    """The product of a few rows and a weight in blocks.

    Parameters
    ----------
    problem : BlockLinear
        The sizes.
    tiling : BlockRowTiling
        How rows and groups are cut.
    dots : RowDots
        The instruction that multiplies.
    most_columns : int
        Input channels whose products fit in sums of 16 bits.
    parts : int
        Sums that the products of a row, a byte of its integers and a vector of channels have.
    """

    columns: ClassVar[int]
    """Input channels of a step."""
    has_shifts: bool = False
    """Whether integers have unsigned bytes; `shifts` are the products that this adds to a plane."""

    def __init__(
        self,
        problem: BlockLinear,
        tiling: BlockRowTiling,
        dots: RowDots,
        most_columns: int,
        parts: int = 1,
    ) -> None:
        self.problem, self.tiling, self.dots, self.parts = problem, tiling, dots, parts
        self.planes = PLANES[problem.activations]
        self.lanes, self.vectors = dots.lanes, GROUP // dots.lanes
        runs = range(self.columns, most_columns + 1, self.columns)
        self.run_columns = max(c for c in runs if problem.block % c == 0)
        self.has_runs = dots.sum_bits == 16 and self.run_columns < problem.block

    @abstractmethod
    def arrays(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Return the names, shapes and types of the weight's arrays."""

    @abstractmethod
    def rounding(self) -> RoundedRows:
        """Return the memory for the rounded rows."""

    def begin(self, group: Expr) -> None:
        """Emit what comes before the first step of a group."""
        del group

    @abstractmethod
    def multiply(self, group: Expr, step: Expr, rows: list[Expr]) -> None:
        """Add the products of a step to `sums`, which `number` finds."""

    def zeros(self, group: Expr, block: Expr, row: Expr) -> list[Expr] | None:
        """Return how much too large the products of a row and a block are; None if they are not."""
        del group, block, row
        return None

    def declare(self) -> Declared:
        """Declare the weight's arrays."""
        arrays = self.arrays()
        self.held = {name: argument(name, *shape, dtype=kind) for name, shape, kind in arrays}
        return [(self.held[name], shape) for name, shape, _ in arrays]

    def prepare(self, x: Expr) -> None:
        """Round all rows, and allocate the sums."""
        self.rounded = self.rounding()
        self.rounded.round(x)
        count = min(self.problem.rows, self.tiling.rows) * self.planes * self.vectors
        self.sums = row_dots.new_sums(count * self.parts, self.dots)
        self.shifts = row_dots.new_sums(self.vectors if self.has_shifts else 1, self.dots)
        self.wide = Registers(count if self.has_runs else 1, self.lanes, "int32")
        self.totals = Registers(count // self.planes, self.lanes)

    def compute(self, group: Expr, store: Store) -> None:
        """Compute the product with a group, a tile of rows after the other."""
        problem, vectors = self.problem, range(self.vectors)
        steps_of_block = problem.block // self.columns

        def visit(first: Expr, count: int) -> None:
            rows = [T.bind(first + r) for r in range(count)]
            for i in range(count * self.vectors):
                self.totals[i] = filled(0, self.lanes)
            self._clear(rows)
            self.begin(group)
            with T.serial(T.int64(0), T.int64(problem.blocks * steps_of_block)) as step:
                self.multiply(group, step, rows)
                if self.has_runs:
                    run = self.run_columns // self.columns
                    with T.If(step % run == run - 1), T.Then():
                        self._widen(rows)
                with T.If(step % steps_of_block == steps_of_block - 1), T.Then():
                    self._add_block(group, T.bind(step // steps_of_block), rows)
            for r, row in enumerate(rows):
                store(row, [T.bind(self.totals[r * self.vectors + v]) for v in vectors])

        each_tile(problem.rows, self.tiling.rows, visit)

    def number(self, row: int, plane: int, vector_: int) -> int:
        """Return the number of the first sum of a row, a byte and a vector of channels."""
        return ((row * self.planes + plane) * self.vectors + vector_) * self.parts

    def of_lanes(self, name: str, *place: Expr) -> list[Expr]:
        """Return an array's values for the channels of a group, as vectors of floats."""
        at = [vector(T.int64(v * self.lanes), self.lanes) for v in range(self.vectors)]
        return [self.as_float(self.held[name][(*place, lanes)]) for lanes in at]

    def as_float(self, value: Expr) -> Expr:
        """Return a vector as one of floats."""
        return T.bind(T.Cast(f"float32x{self.lanes}", value))

    def _numbers(self, rows: list[Expr]) -> range:
        return range(len(rows) * self.planes * self.vectors)

    def _clear(self, rows: list[Expr]) -> None:
        """Begin a block."""
        if self.has_runs:
            for i in self._numbers(rows):
                self.wide[i] = across(T.int32(0), self.lanes)
        self._clear_sums(rows)

    def _clear_sums(self, rows: list[Expr]) -> None:
        for i in range(len(self._numbers(rows)) * self.parts):
            self.sums[i] = row_dots.no_products(self.dots)
        for v in range(self.vectors if self.has_shifts else 0):
            self.shifts[v] = row_dots.no_products(self.dots)

    def _whole(self, i: int) -> Expr:
        parts = [self.sums[i * self.parts + part] for part in range(self.parts)]
        if self.has_shifts:
            parts = [part - self.shifts[i % self.vectors] for part in parts]
        return row_dots.whole(parts, self.dots)

    def _widen(self, rows: list[Expr]) -> None:
        """Move the products of some columns into sums that hold those of a block."""
        for i in self._numbers(rows):
            self.wide[i] = self.wide[i] + self._whole(i)
        self._clear_sums(rows)

    def _add_block(self, group: Expr, block: Expr, rows: list[Expr]) -> None:
        """Add the products of a block to the totals."""
        scales = self.of_lanes("scales", group, block)
        for r, row in enumerate(rows):
            scale = T.bind(self.rounded.scale(block, row, self.lanes))
            zeros = self.zeros(group, block, row)
            for v in range(self.vectors):
                numbers = [(r * self.planes + p) * self.vectors + v for p in range(self.planes)]
                planes = [self.wide[i] if self.has_runs else self._whole(i) for i in numbers]
                value = self._joined(planes)
                if zeros is not None:
                    value = value - zeros[v]
                t = r * self.vectors + v
                self.totals[t] = self.totals[t] + value * (scales[v] * scale)
        self._clear(rows)

    def _joined(self, planes: list[Expr]) -> Expr:
        """Return the products of integers of one byte, or of two, as floats."""
        low, *high = (self.as_float(plane) for plane in planes)
        return low + high[0] * across(T.float32(256), self.lanes) if high else low
