"""Linear layers on a few rows whose weight has four bits, with a bitmap of the non-zeros.

An instruction of AVX-512 (VBMI2) puts the codes where the bits of a mask are; zeros get the code 8.
What follows is the dense kernel::

    for octet of input channels:
        held = codes[place : + 64]
        for half of the octet:
            codes = expanded(held's half, masks[group, octet, half])
            products[row, :] += codes * integers[row, octet, half]
        place += non-zeros of the fuller mask
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm.tirx.script import builder as T

from tvm_sparse.formats.bitmaps import READ_BYTES
from tvm_sparse.formats.groups import COLUMNS, GROUP
from tvm_sparse.schedules.emit import row_dots
from tvm_sparse.schedules.emit.buffers import Registers, across, argument, prefetch, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.block_row_linear import Blocks
from tvm_sparse.schedules.operators.packed_rows import Declared, Frame, packed_rows
from tvm_sparse.schedules.operators.summed_blocks import AHEAD_BYTES

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.cpu.row_dots import RowDots
    from tvm_sparse.sizes.block_linear import BlockLinear
    from tvm_sparse.tilings.block_rows import BlockRowTiling

_MIDDLE = 8
_MASKS_AHEAD = AHEAD_BYTES // 64
"""How many octets ahead masks are asked for: they have about a third of the bytes."""


def bitmap_row_linear(
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
        As `block_row_linear` takes them; `dots` is that of `expanding_dots`.

    Returns
    -------
    PrimFunc
        ``(x [rows, K], masks, codes, starts, scales, [bias [N]], [residual [rows, N]],
        y [rows, N])``, the weight's arrays as in `BitmapBlocks`.
    """
    product = _Bitmaps(problem, tiling, dots, scale_dtype, has_zeros=False)
    return frame("bitmap_row_linear", problem, product, tiling.jobs, epilogue)


class _Bitmaps(Blocks):
    def declare(self) -> Declared:
        """Declare the arrays of a `BitmapBlocks`."""
        problem, count = self.problem, tvm.tirx.Var("bytes", "int64")
        groups, octets = -(-problem.n // GROUP), problem.blocks * problem.block // COLUMNS
        shapes = {
            "masks": ((groups, octets, 2), "uint64"),
            "codes": ((count,), "uint8"),
            "starts": ((groups,), "int32"),
            "scales": ((groups, problem.blocks, GROUP), self.scale_dtype),
        }
        self.held = {
            name: argument(name, *shape, dtype=kind) for name, (shape, kind) in shapes.items()
        }
        return [(self.held[name], shape) for name, (shape, _) in shapes.items()]

    def prepare(self, x: Expr) -> None:
        """Round all rows, and allocate the sums and the place."""
        super().prepare(x)
        self.place = Registers(1, 1, "int64")

    def begin(self, group: Expr) -> None:
        """Go to the first code of a group."""
        self.place[0] = T.Cast("int64", self.held["starts"][group])

    def multiply(self, group: Expr, step: Expr, rows: list[Expr]) -> None:
        """Add the products of eight columns to the sums."""
        masks, codes = self.held["masks"], self.held["codes"]
        place = T.bind(self.place[0])
        prefetch(masks[group, step + _MASKS_AHEAD, T.int64(0)])
        prefetch(codes[place + AHEAD_BYTES])
        of_halves = [T.bind(masks[group, step, T.int64(half)]) for half in range(2)]
        low, high = (T.popcount(mask) for mask in of_halves)
        self.place[0] = place + T.Cast("int64", T.max(low, high))
        held = T.bind(codes[vector(place, READ_BYTES)])
        for half, mask in enumerate(of_halves):
            dense = T.bind(_expanded(row_dots.bits_of(held, 4 * half, 4, READ_BYTES), mask))
            for r, row in enumerate(rows):
                for plane in range(self.planes):
                    x = T.bind(self.rounded.word(step, row, plane, half, self.lanes))
                    s = self.number(r, plane, 0)
                    self.sums[s] = row_dots.added(self.sums[s], dense, x, self.dots)


def _expanded(codes: Expr, mask: Expr) -> Expr:
    """Return the first codes where the bits of a mask are, and the code of zero elsewhere."""
    bits = tvm.tirx.call_intrin("boolx64", tvm.ir.Op.get("tirx.reinterpret"), mask)
    zeros = across(T.uint8(_MIDDLE), READ_BYTES)
    name = "llvm.x86.avx512.mask.expand"
    return T.call_llvm_pure_intrin(f"uint8x{READ_BYTES}", name, codes, zeros, bits)
