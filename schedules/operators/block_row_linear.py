"""Linear layers on a few rows whose dense weight has four or eight bits.

The rows are rounded to integers first. The output channels of a group lie in the lanes of vectors,
so that nothing is summed up across a vector. The part of a group comes from L1 or L2 for the second
tile of rows and the next ones::

    for rows that fit in registers:
        for octet of input channels:
            for word: products[row, :] += codes[group, word, :] * integers[row, word]
            if a block ends:
                totals[row, :] += w_scale[group, block] * scale[row, block]
                                  * (products[row, :] - zero[group, block] * sum[row, block])
                products = 0                                         # integers, in registers

The sum of the integers of a block stands for the zeros of all channels. A loop over the octets of a
block would be unrolled by LLVM, which then keeps the products of several octets in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.row_dots import SHORT_COLUMNS
from tvm_sparse.formats.groups import COLUMNS, GROUP
from tvm_sparse.schedules.emit import row_dots
from tvm_sparse.schedules.emit.buffers import Registers, across, argument, filled, prefetch, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.rounded_rows import RoundedRows
from tvm_sparse.schedules.emit.tiles import each_tile
from tvm_sparse.schedules.operators.packed_rows import (
    Declared,
    PackedProduct,
    Store,
    packed_rows,
)
from tvm_sparse.sizes.block_linear import PLANES

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.cpu.row_dots import RowDots
    from tvm_sparse.sizes.block_linear import BlockLinear
    from tvm_sparse.tilings.block_row_linear import BlockRowTiling

AHEAD_BYTES = 1024
"""How far ahead of the products a weight is asked for; from 1 to 4 KB are equally good."""

_WORD_BYTES = 4 * GROUP


def block_row_linear(
    problem: BlockLinear,
    tiling: BlockRowTiling,
    epilogue: Epilogue,
    dots: RowDots,
    scale_dtype: str = "float32",
    *,
    has_zeros: bool = False,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a layer.

    Parameters
    ----------
    problem : BlockLinear
        The sizes.
    tiling : BlockRowTiling
        How rows and groups are cut.
    epilogue : Epilogue
        The operators that follow the product.
    dots : RowDots
        The instruction that multiplies.
    scale_dtype : str
        The type of the weight's scales.
    has_zeros : bool
        Whether the weight has zeros of its own.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], codes, scales, [zeros], [bias [N]], [residual [rows, N]], y [rows, N])``,
        the weight's arrays as in `GroupedBlocks`.
    """
    product = _Blocks(problem, tiling, dots, scale_dtype, has_zeros)
    return packed_rows("block_row_linear", problem, product, tiling.jobs, epilogue)


class _Blocks(PackedProduct):
    def __init__(
        self,
        problem: BlockLinear,
        tiling: BlockRowTiling,
        dots: RowDots,
        scale_dtype: str,
        has_zeros: bool,
    ) -> None:
        self.problem, self.tiling, self.dots = problem, tiling, dots
        self.scale_dtype, self.has_zeros = scale_dtype, has_zeros
        self.planes = PLANES[problem.activations]
        self.vectors, self.lanes = _WORD_BYTES // dots.vector_bytes, dots.lanes
        self.parts = row_dots.code_sums(problem.bits, dots)
        self.octet_words = problem.bits // 4
        self.octets = problem.block // COLUMNS
        runs = (c for c in range(COLUMNS, SHORT_COLUMNS + 1, COLUMNS) if problem.block % c == 0)
        self.run_columns = max(runs)
        self.has_runs = dots.sum_bits == 16 and self.run_columns < problem.block

    def declare(self) -> Declared:
        """Declare codes, scales and zeros."""
        problem = self.problem
        groups, words = -(-problem.n // GROUP), problem.blocks * problem.block // COLUMNS
        shapes = [(groups, words * self.octet_words, _WORD_BYTES)]
        shapes += [(groups, problem.blocks, GROUP)] * (1 + self.has_zeros)
        kinds = ("uint8", self.scale_dtype, "uint8")
        arrays = [
            argument(name, *shape, dtype=kind)
            for name, shape, kind in zip(("codes", "scales", "zeros"), shapes, kinds, strict=False)
        ]
        self.codes, self.scales, *zeros = arrays
        self.zeros = zeros[0] if zeros else None
        return list(zip(arrays, shapes, strict=True))

    def prepare(self, x: Expr) -> None:
        """Round all rows, and allocate the sums."""
        self.rounded = RoundedRows(self.problem)
        self.rounded.round(x)
        count = min(self.problem.rows, self.tiling.rows) * self.planes * self.vectors
        self.sums = row_dots.new_sums(count * self.parts, self.dots)
        self.wide = Registers(count if self.has_runs else 1, self.lanes, "int32")
        self.totals = Registers(count // self.planes, self.lanes)

    def compute(self, group: Expr, store: Store) -> None:
        """Compute the product with a group, a tile of rows after the other."""

        def visit(first: Expr, count: int) -> None:
            rows = [T.bind(first + r) for r in range(count)]
            totals = range(count * self.vectors)
            for i in totals:
                self.totals[i] = filled(0, self.lanes)
            self._clear(rows)
            with T.serial(T.int64(0), T.int64(self.problem.blocks * self.octets)) as octet:
                self._multiply(group, octet, rows)
                if self.has_runs:
                    run = self.run_columns // COLUMNS
                    with T.If(octet % run == run - 1), T.Then():
                        self._widen(rows)
                with T.If(octet % self.octets == self.octets - 1), T.Then():
                    self._add_block(group, T.bind(octet // self.octets), rows)
            for r, row in enumerate(rows):
                store(row, [T.bind(self.totals[r * self.vectors + v]) for v in range(self.vectors)])

        each_tile(self.problem.rows, self.tiling.rows, visit)

    def _numbers(self, rows: list[Expr]) -> range:
        """Return the numbers of the vectors of products: of row, plane and vector of channels."""
        return range(len(rows) * self.planes * self.vectors)

    def _clear(self, rows: list[Expr]) -> None:
        """Begin a block."""
        for i in self._numbers(rows):
            if self.has_runs:
                self.wide[i] = across(T.int32(0), self.lanes)
            self._clear_sums(i)

    def _clear_sums(self, i: int) -> None:
        for part in range(self.parts):
            self.sums[i * self.parts + part] = row_dots.no_products(self.dots)

    def _multiply(self, group: Expr, octet: Expr, rows: list[Expr]) -> None:
        """Add the products of eight columns to the sums."""
        size, vectors = self.dots.vector_bytes, range(self.vectors)
        for w in range(self.octet_words):
            word = T.bind(octet * self.octet_words + w)
            prefetch(self.codes[group, word + AHEAD_BYTES // _WORD_BYTES, T.int64(0)])
            codes = []
            for v in vectors:
                held = T.bind(self.codes[group, word, vector(T.int64(v * size), size)])
                codes.append(row_dots.codes_of(held, self.problem.bits, self.dots))
            halves = sorted({half for _, half, _ in codes[0]})
            for r, row in enumerate(rows):
                for plane in range(self.planes):
                    for half in halves:
                        x = T.bind(self.rounded.word(octet, row, plane, half + w, self.lanes))
                        for v in vectors:
                            i = ((r * self.planes + plane) * self.vectors + v) * self.parts
                            for code, of_half, part in codes[v]:
                                if of_half == half:
                                    s = i + part
                                    self.sums[s] = row_dots.added(self.sums[s], code, x, self.dots)

    def _whole(self, i: int) -> Expr:
        parts = [self.sums[i * self.parts + part] for part in range(self.parts)]
        return row_dots.whole(parts, self.dots)

    def _widen(self, rows: list[Expr]) -> None:
        """Move the products of some columns into sums that hold those of a block."""
        for i in self._numbers(rows):
            self.wide[i] = self.wide[i] + self._whole(i)
            self._clear_sums(i)

    def _add_block(self, group: Expr, block: Expr, rows: list[Expr]) -> None:
        """Add the products of a block to the results."""
        lanes = self.lanes
        scales, zeros = self._of_block(group, block)
        for r, row in enumerate(rows):
            scale = T.bind(self.rounded.scale(block, row, lanes))
            zero = self._zeros(zeros, block, row)
            for v in range(self.vectors):
                numbers = [(r * self.planes + p) * self.vectors + v for p in range(self.planes)]
                planes = [self.wide[i] if self.has_runs else self._whole(i) for i in numbers]
                value = (self._joined(planes) - zero[v]) * (scales[v] * scale)
                t = r * self.vectors + v
                self.totals[t] = self.totals[t] + value
        self._clear(rows)

    def _of_block(self, group: Expr, block: Expr) -> tuple[list[Expr], list[Expr] | None]:
        """Return the scales and the zeros of a block, as floats."""
        at = [vector(T.int64(v * self.lanes), self.lanes) for v in range(self.vectors)]
        scales = [self._as_float(self.scales[group, block, place]) for place in at]
        if self.zeros is None:
            return scales, None
        shift = T.float32(row_dots.zero_shift(self.problem.bits, self.dots))
        zeros = [self._as_float(self.zeros[group, block, place]) for place in at]
        return scales, [zero - across(shift, self.lanes) for zero in zeros]

    def _zeros(self, zeros: list[Expr] | None, block: Expr, row: Expr) -> list[Expr]:
        """Return what the products of a row are larger for the zeros of a block."""
        total = self.rounded.sum(block, row, 1)
        if zeros is None:
            bits = self.problem.bits
            middle = (1 << (bits - 1)) - row_dots.zero_shift(bits, self.dots)
            shared = T.bind(across(total * T.float32(middle), self.lanes))
            return [shared] * self.vectors
        return [zero * across(total, self.lanes) for zero in zeros]

    def _joined(self, planes: list[Expr]) -> Expr:
        """Return the products of integers of one byte, or of two, as floats."""
        low, *high = (self._as_float(plane) for plane in planes)
        return low + high[0] * across(T.float32(256), self.lanes) if high else low

    def _as_float(self, value: Expr) -> Expr:
        return T.bind(T.Cast(f"float32x{self.lanes}", value))
