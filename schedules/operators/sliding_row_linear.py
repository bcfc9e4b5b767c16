"""Linear layers on a few rows whose weight has four bits and zeros anywhere.

The activations of a window of sixteen columns are the table of a byte shuffle, in which the packed
weight finds the factors of two non-zeros of each of sixteen output channels::

    for rows that fit in registers:
        for block of input channels:
            for step of the block:
                table = integers[row, block + windows[step] : + 16]
                products[row, :] += (codes[step, :] - 8) * table[places[step, :]]
            totals[row, :] += w_scale[group, block] * scale[row, block] * products[row, :]
        y[row, group] = totals[row, :]

The integers are unsigned. What that adds is the same for all rows: the products of the codes and of
128. Places are relative to the window of a step, so that no place waits for another one as those of
4-bit deltas do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm.tirx.script import builder as T

from tvm_sparse.formats.groups import GROUP
from tvm_sparse.formats.sliding import STEP_BYTES, WINDOW
from tvm_sparse.schedules.emit import row_dots
from tvm_sparse.schedules.emit.buffers import (
    Registers,
    across,
    argument,
    filled,
    prefetch,
    vector,
)
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.rounded_rows import RoundedRows
from tvm_sparse.schedules.emit.tiles import each_tile
from tvm_sparse.schedules.operators.packed_rows import (
    Declared,
    PackedProduct,
    Store,
    packed_rows,
)
from tvm_sparse.schedules.operators.summed_blocks import AHEAD_BYTES
from tvm_sparse.sizes.block_linear import PLANES

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.cpu.row_dots import RowDots
    from tvm_sparse.sizes.block_linear import BlockLinear
    from tvm_sparse.tilings.block_rows import BlockRowTiling

SHORT_STEPS = 8
"""Steps whose products fit in sums of 16 bits: 8 * 2 * 8 * 255 = 32640."""

_LANES, _HALVES = 8, 2


def sliding_row_linear(
    problem: BlockLinear,
    tiling: BlockRowTiling,
    epilogue: Epilogue,
    dots: RowDots,
    scale_dtype: str = "float32",
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a layer.

    Parameters
    ----------
    problem, tiling, epilogue, dots, scale_dtype
        As `block_row_linear` takes them; `dots` is `SHUFFLED_DOTS`.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], codes, windows, starts, scales, [bias [N]], [residual [rows, N]],
        y [rows, N])``, the weight's arrays as in `SlidingBlocks`.
    """
    product = _Windows(problem, tiling, dots, scale_dtype)
    return packed_rows("sliding_row_linear", problem, product, tiling.jobs, epilogue)


class _Windows(PackedProduct):
    def __init__(
        self, problem: BlockLinear, tiling: BlockRowTiling, dots: RowDots, scale_dtype: str
    ) -> None:
        self.problem, self.tiling, self.dots = problem, tiling, dots
        self.scale_dtype, self.planes = scale_dtype, PLANES[problem.activations]

    def declare(self) -> Declared:
        """Declare the arrays of a `SlidingBlocks`."""
        problem, steps = self.problem, tvm.tirx.Var("steps", "int64")
        groups = -(-problem.n // GROUP)
        shapes = {
            "codes": ((steps, STEP_BYTES), "uint8"),
            "windows": ((steps,), "uint8"),
            "starts": ((groups * problem.blocks + 1,), "int32"),
            "scales": ((groups, problem.blocks, GROUP), self.scale_dtype),
        }
        self.held = {
            name: argument(name, *shape, dtype=kind) for name, (shape, kind) in shapes.items()
        }
        return [(self.held[name], shape) for name, (shape, _) in shapes.items()]

    def prepare(self, x: Expr) -> None:
        """Round all rows, and allocate the sums."""
        problem = self.problem
        sizes = problem.rows, problem.k, problem.block, self.planes
        self.rounded = RoundedRows(*sizes, is_unsigned=True, is_planar=True)
        self.rounded.round(x)
        count = min(problem.rows, self.tiling.rows)
        self.sums = row_dots.new_sums(count * self.planes, self.dots)
        self.shift = row_dots.new_sums(1, self.dots)
        self.wide = Registers(count * self.planes * _HALVES, _LANES, "int32")
        self.totals = Registers(count * _HALVES, _LANES)

    def compute(self, group: Expr, store: Store) -> None:
        """Compute the product with a group, a tile of rows after the other."""
        problem = self.problem

        def visit(first: Expr, count: int) -> None:
            rows = [T.bind(first + r) for r in range(count)]
            for i in range(count * _HALVES):
                self.totals[i] = filled(0, _LANES)
            with T.serial(T.int64(0), T.int64(problem.blocks)) as block:
                number = T.bind(group * problem.blocks + block)
                begin, end = (
                    T.bind(T.Cast("int64", self.held["starts"][number + i])) for i in range(2)
                )
                self._clear(count)
                for i in range(count * self.planes * _HALVES):
                    self.wide[i] = across(T.int32(0), _LANES)
                with T.serial(T.int64(0), end - begin) as i:
                    self._multiply(T.bind(begin + i), block, rows)
                    with T.If(i % SHORT_STEPS == SHORT_STEPS - 1), T.Then():
                        self._widen(count)
                self._widen(count)
                self._add_block(group, block, rows)
            for r, row in enumerate(rows):
                store(row, [T.bind(self.totals[r * _HALVES + half]) for half in range(_HALVES)])

        each_tile(problem.rows, self.tiling.rows, visit)

    def _clear(self, count: int) -> None:
        for i in range(count * self.planes):
            self.sums[i] = row_dots.no_products(self.dots)
        self.shift[0] = row_dots.no_products(self.dots)

    def _multiply(self, step: Expr, block: Expr, rows: list[Expr]) -> None:
        """Add the products of a step to the sums."""
        held, size = self.held["codes"], self.dots.vector_bytes
        prefetch(held[step + AHEAD_BYTES // STEP_BYTES, T.int64(0)])
        column = T.bind(block * self.problem.block + T.Cast("int64", self.held["windows"][step]))
        packed = T.bind(held[step, vector(T.int64(0), size)])
        places = row_dots.bits_of(packed, 0, 4, size)
        codes = T.bind(row_dots.bits_of(packed, 4, 4, size) - across(T.uint8(8), size))
        ones = across(T.uint8(128), size)
        self.shift[0] = row_dots.added(self.shift[0], ones, codes, self.dots)
        for r, row in enumerate(rows):
            for plane in range(self.planes):
                table = T.bind(self.rounded.window(column, row, plane, WINDOW, size))
                x = row_dots.looked_up(table, places, self.dots)
                i = r * self.planes + plane
                self.sums[i] = row_dots.added(self.sums[i], x, codes, self.dots)

    def _widen(self, count: int) -> None:
        """Move the sums of 16 bits into sums that hold those of a block."""
        for i in range(count * self.planes):
            short = T.bind(self.sums[i] - self.shift[0])
            for half in range(_HALVES):
                lanes = [half * _LANES + lane for lane in range(_LANES)]
                part = T.Cast(f"int32x{_LANES}", T.Shuffle([short], lanes))
                self.wide[i * _HALVES + half] = self.wide[i * _HALVES + half] + part
        self._clear(count)

    def _add_block(self, group: Expr, block: Expr, rows: list[Expr]) -> None:
        """Add the products of a block to the totals."""
        for half in range(_HALVES):
            at = vector(T.int64(half * _LANES), _LANES)
            of_weight = T.bind(self._as_float(self.held["scales"][group, block, at]))
            for r, row in enumerate(rows):
                scale = of_weight * self.rounded.scale(block, row, _LANES)
                planes = [
                    self._as_float(self.wide[(r * self.planes + p) * _HALVES + half])
                    for p in range(self.planes)
                ]
                value = planes[0]
                if self.planes == 2:
                    value = value + planes[1] * filled(256, _LANES)
                i = r * _HALVES + half
                self.totals[i] = self.totals[i] + value * scale

    def _as_float(self, value: Expr) -> Expr:
        return T.Cast(f"float32x{_LANES}", value)
