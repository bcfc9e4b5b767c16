"""Linear layers on a few rows whose weight has four bits, and two non-zeros of four columns.

The activations of eight columns are the table of a byte shuffle, in which the places of a packed
weight find the factors of its codes::

    for octet of input channels:
        table = integers[row, octet]
        products[row, :] += (codes[group, octet, :] - 8) * table[places[group, octet, :]]

The shuffled integers are unsigned where the instruction wants it. What that adds is the same for
all rows: the products of the codes and of 128.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm.tirx.script import builder as T

from tvm_sparse.formats.groups import GROUP
from tvm_sparse.formats.pairs import CODE_BYTES, COLUMNS, PLACE_BYTES
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

SHORT_COLUMNS = 64
"""Input channels whose products fit in sums of 16 bits: 8 * 2 * 8 * 255 = 32640."""

_BYTES = CODE_BYTES + PLACE_BYTES


def pair_row_linear(
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
        As `block_row_linear` takes them.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], codes, scales, [bias [N]], [residual [rows, N]], y [rows, N])``, the
        weight's arrays as in `PairBlocks`.
    """
    product = _Pairs(problem, tiling, dots, SHORT_COLUMNS)
    product.scale_dtype, product.has_shifts = scale_dtype, not dots.is_signed
    return frame("pair_row_linear", problem, product, tiling.jobs, epilogue)


class _Pairs(SummedBlocks):
    columns = COLUMNS
    scale_dtype = "float32"

    def arrays(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Return codes with places, and scales."""
        problem = self.problem
        groups, columns = -(-problem.n // GROUP), problem.blocks * problem.block
        return [
            ("codes", (groups, columns // COLUMNS, _BYTES), "uint8"),
            ("scales", (groups, problem.blocks, GROUP), self.scale_dtype),
        ]

    def rounding(self) -> RoundedRows:
        """Return rows with a scale for each block."""
        sizes = self.problem.rows, self.problem.k, self.problem.block, self.planes
        return RoundedRows(*sizes, is_unsigned=self.has_shifts)

    def multiply(self, group: Expr, step: Expr, rows: list[Expr]) -> None:
        """Add the products of sixteen columns to the sums."""
        size, held = self.dots.vector_bytes, self.held["codes"]
        line = AHEAD_BYTES // _BYTES
        for part in (0, _BYTES // 2):
            prefetch(held[group, step + line, T.int64(part)])
        words = []
        for v in range(self.vectors):
            words.append(T.bind(held[group, step, vector(T.int64(v * size), size)]))
        for octet in range(2):
            middle = across(T.uint8(8), size)
            codes = [T.bind(row_dots.bits_of(word, 4 * octet, 4, size) - middle) for word in words]
            if self.has_shifts:
                for v, code in enumerate(codes):
                    ones = across(T.uint8(128), size)
                    self.shifts[v] = row_dots.added(self.shifts[v], ones, code, self.dots)
            places = [self._places(group, step, octet, v) for v in range(self.vectors)]
            for r, row in enumerate(rows):
                for plane in range(self.planes):
                    table = T.bind(self.rounded.octet(step * 2 + octet, row, plane, size))
                    for v, code in enumerate(codes):
                        x = row_dots.looked_up(table, places[v], self.dots)
                        i = self.number(r, plane, v)
                        self.sums[i] = row_dots.added(self.sums[i], x, code, self.dots)

    def _places(self, group: Expr, step: Expr, octet: int, v: int) -> Expr:
        """Return where the factors of a vector of codes lie among those of eight columns."""
        size, held = self.dots.vector_bytes, self.held["codes"]
        part = min(size, PLACE_BYTES)
        first = T.int64(CODE_BYTES + v * size % PLACE_BYTES)
        packed = held[group, step, vector(first, part)]
        halves = [v * size // PLACE_BYTES] if size <= PLACE_BYTES else [0, 1]
        pieces = [row_dots.bits_of(packed, 4 * half + 2 * octet, 2, part) for half in halves]
        places = pieces[0] if len(pieces) == 1 else T.Shuffle(pieces, list(range(size)))
        upper = T.reinterpret(f"uint8x{size}", across(T.int32(0x04040000), size // 4))
        return T.bind(T.bitwise_or(places, upper))
