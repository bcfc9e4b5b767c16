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

Places are relative to the window of a step, so that no place waits for another one as those of
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
from tvm_sparse.schedules.emit.pair_sums import SignedPairSums, UnsignedPairSums
from tvm_sparse.schedules.emit.rounded_rows import RoundedRows
from tvm_sparse.schedules.emit.tiles import each_tile
from tvm_sparse.schedules.operators.packed_rows import (
    Declared,
    Frame,
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


def sliding_row_linear(
    problem: BlockLinear,
    tiling: BlockRowTiling,
    epilogue: Epilogue,
    dots: RowDots,
    scale_dtype: str = "float32",
    *,
    frame: Frame = packed_rows,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a layer.

    Parameters
    ----------
    problem, tiling, epilogue, dots, scale_dtype, frame
        As `block_row_linear` takes them; `dots` is that of `shuffled_dots`.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], codes, windows, starts, scales, [bias [N]], [residual [rows, N]],
        y [rows, N])``, the weight's arrays as in `SlidingBlocks`.
    """
    product = _Windows(problem, tiling, dots, scale_dtype)
    return frame("sliding_row_linear", problem, product, tiling.jobs, epilogue)


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
        of_pairs = SignedPairSums if self.dots.is_signed else UnsignedPairSums
        self.rounded = RoundedRows(*sizes, is_unsigned=of_pairs.is_unsigned, is_planar=True)
        self.rounded.round(x)
        count = min(problem.rows, self.tiling.rows)
        self.sums = of_pairs(count * self.planes, self.dots)
        self.lanes, self.parts = self.sums.lanes, self.sums.parts
        self.wide = Registers(count * self.planes * self.parts, self.lanes, "int32")
        self.totals = Registers(count * self.parts, self.lanes)

    def compute(self, group: Expr, store: Store) -> None:
        """Compute the product with a group, a tile of rows after the other."""
        problem, parts, steps = self.problem, range(self.parts), self.sums.steps

        def visit(first: Expr, count: int) -> None:
            rows = [T.bind(first + r) for r in range(count)]
            for i in range(count * self.parts):
                self.totals[i] = filled(0, self.lanes)
            with T.serial(T.int64(0), T.int64(problem.blocks)) as block:
                number = T.bind(group * problem.blocks + block)
                begin, end = (
                    T.bind(T.Cast("int64", self.held["starts"][number + i])) for i in range(2)
                )
                self.sums.clear()
                for i in range(count * self.planes * self.parts):
                    self.wide[i] = across(T.int32(0), self.lanes)
                with T.serial(T.int64(0), end - begin) as i:
                    self._multiply(T.bind(begin + i), block, rows)
                    with T.If(i % steps == steps - 1), T.Then():
                        self._widen(count)
                self._widen(count)
                self._add_block(group, block, rows)
            for r, row in enumerate(rows):
                store(row, [T.bind(self.totals[r * self.parts + part]) for part in parts])

        each_tile(problem.rows, self.tiling.rows, visit)

    def _multiply(self, step: Expr, block: Expr, rows: list[Expr]) -> None:
        """Add the products of a step to the sums."""
        held, size = self.held["codes"], self.dots.vector_bytes
        prefetch(held[step + AHEAD_BYTES // STEP_BYTES, T.int64(0)])
        column = T.bind(block * self.problem.block + T.Cast("int64", self.held["windows"][step]))
        pieces = [
            T.bind(held[step, vector(T.int64(at), size)]) for at in range(0, STEP_BYTES, size)
        ]
        middle = across(T.uint8(8), size)
        codes = [T.bind(row_dots.bits_of(piece, 4, 4, size) - middle) for piece in pieces]
        places = [row_dots.bits_of(piece, 0, 4, size) for piece in pieces]
        self.sums.begin(codes)
        for r, row in enumerate(rows):
            for plane in range(self.planes):
                table = T.bind(self.rounded.window(column, row, plane, WINDOW, size))
                for piece, (code, place) in enumerate(zip(codes, places, strict=True)):
                    x = T.bind(row_dots.looked_up(table, place, self.dots))
                    self.sums.add(r * self.planes + plane, piece, x, code)

    def _widen(self, count: int) -> None:
        """Move the sums of 16 bits into sums that hold those of a block."""
        for i in range(count * self.planes):
            for part, value in enumerate(self.sums.whole(i)):
                w = i * self.parts + part
                self.wide[w] = self.wide[w] + value
        self.sums.clear()

    def _add_block(self, group: Expr, block: Expr, rows: list[Expr]) -> None:
        """Add the products of a block to the totals."""
        for part in range(self.parts):
            at = vector(T.int64(part * self.lanes), self.lanes)
            of_weight = T.bind(self._as_float(self.held["scales"][group, block, at]))
            for r, row in enumerate(rows):
                scale = of_weight * self.rounded.scale(block, row, self.lanes)
                numbers = ((r * self.planes + p) * self.parts + part for p in range(self.planes))
                value, *high = (self._as_float(self.wide[i]) for i in numbers)
                if high:
                    value = value + high[0] * filled(256, self.lanes)
                i = r * self.parts + part
                self.totals[i] = self.totals[i] + value * scale

    def _as_float(self, value: Expr) -> Expr:
        return T.Cast(f"float32x{self.lanes}", value)
