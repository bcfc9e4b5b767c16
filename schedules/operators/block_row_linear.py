"""Linear layers on a few rows whose dense weight has four or eight bits.

Codes are unsigned. The sum of the integers of a block stands for the zeros of all channels::

    totals[row, :] += w_scale[group, block] * scale[row, block]
                      * (products[row, :] - zero[group, block] * sum[row, block])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.row_dots import SHORT_COLUMNS
from tvm_sparse.formats.groups import COLUMNS, GROUP
from tvm_sparse.schedules.emit import row_dots
from tvm_sparse.schedules.emit.buffers import across, prefetch, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.emit.rounded_rows import RoundedRows
from tvm_sparse.schedules.operators.packed_rows import Frame, packed_rows
from tvm_sparse.schedules.operators.summed_blocks import AHEAD_BYTES, SummedBlocks

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.cpu.row_dots import RowDots
    from tvm_sparse.sizes.block_linear import BlockLinear
    from tvm_sparse.tilings.block_rows import BlockRowTiling

_WORD_BYTES = 4 * GROUP


def block_row_linear(
    problem: BlockLinear,
    tiling: BlockRowTiling,
    epilogue: Epilogue,
    dots: RowDots,
    scale_dtype: str = "float32",
    *,
    has_zeros: bool = False,
    frame: Frame = packed_rows,
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
    frame : callable
        What the product becomes a function by.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], codes, scales, [zeros], [bias [N]], [residual [rows, N]], y [rows, N])``,
        the weight's arrays as in `GroupedBlocks`.
    """
    product = Blocks(problem, tiling, dots, scale_dtype, has_zeros)
    return frame("block_row_linear", problem, product, tiling.jobs, epilogue)


class Blocks(SummedBlocks):
    """The product of a few rows and a dense weight in blocks.

    Parameters
    ----------
    problem, tiling, dots, scale_dtype, has_zeros
        As `block_row_linear` takes them.
    """

    columns = COLUMNS

    def __init__(
        self,
        problem: BlockLinear,
        tiling: BlockRowTiling,
        dots: RowDots,
        scale_dtype: str,
        has_zeros: bool,
    ) -> None:
        super().__init__(
            problem, tiling, dots, SHORT_COLUMNS, row_dots.code_sums(problem.bits, dots)
        )
        self.scale_dtype, self.has_zeros = scale_dtype, has_zeros
        self.octet_words = problem.bits // 4

    def arrays(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Return codes, scales and zeros."""
        problem = self.problem
        groups, octets = -(-problem.n // GROUP), problem.blocks * problem.block // COLUMNS
        of_blocks = groups, problem.blocks, GROUP
        arrays: list[tuple[str, tuple[int, ...], str]] = [
            ("codes", (groups, octets * self.octet_words, _WORD_BYTES), "uint8"),
            ("scales", of_blocks, self.scale_dtype),
        ]
        return [*arrays, ("zeros", of_blocks, "uint8")] if self.has_zeros else arrays

    def rounding(self) -> RoundedRows:
        """Return rows with a scale for each block."""
        problem = self.problem
        return RoundedRows(problem.rows, problem.k, problem.block, self.planes)

    def multiply(self, group: Expr, step: Expr, rows: list[Expr]) -> None:
        """Add the products of eight columns to the sums."""
        size, vectors, held = self.dots.vector_bytes, range(self.vectors), self.held["codes"]
        for w in range(self.octet_words):
            word = T.bind(step * self.octet_words + w)
            prefetch(held[group, word + AHEAD_BYTES // _WORD_BYTES, T.int64(0)])
            codes = []
            for v in vectors:
                read = T.bind(held[group, word, vector(T.int64(v * size), size)])
                codes.append(row_dots.codes_of(read, self.problem.bits, self.dots))
            halves = sorted({half for _, half, _ in codes[0]})
            for r, row in enumerate(rows):
                for plane in range(self.planes):
                    for half in halves:
                        x = T.bind(self.rounded.word(step, row, plane, half + w, self.lanes))
                        for v in vectors:
                            for code, of_half, part in codes[v]:
                                if of_half == half:
                                    s = self.number(r, plane, v) + part
                                    self.sums[s] = row_dots.added(self.sums[s], code, x, self.dots)

    def zeros(self, group: Expr, block: Expr, row: Expr) -> list[Expr]:
        """Return by how much the products of a row are larger for the zeros of a block."""
        total = self.rounded.sum(block, row, 1)
        shift = row_dots.zero_shift(self.problem.bits, self.dots)
        if not self.has_zeros:
            middle = T.float32((1 << (self.problem.bits - 1)) - shift)
            return [T.bind(across(total * middle, self.lanes))] * self.vectors
        shifts = across(T.float32(shift), self.lanes)
        zeros = self.of_lanes("zeros", group, block)
        return [(zero - shifts) * across(total, self.lanes) for zero in zeros]
