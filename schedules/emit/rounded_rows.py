"""Rows of activations rounded to integers of 8 or 16 bits, with a scale for each block of them.

A kernel rounds its rows before it reads a weight, every thread for itself. The integers lie as
signed bytes in words of four, as products of bytes take them: an integer of 16 bits is
``low + 256 * high``, in two words. A row with a number that is not finite gets scales that are NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import Registers, across, filled, scratch, vector

if TYPE_CHECKING:
    from tvm.ir import Expr

_LANES = 8
_LEVELS = {1: 127, 2: 127 * 256 + 127}
"""The largest integer, by the bytes that it has."""
_TINY = 1e-33
"""Numbers below it are rounded to zero: the inverse of their scale would not be finite."""


class RoundedRows:
    """Memory for rounded rows.

    Parameters
    ----------
    rows, columns : int
        Sizes of the input.
    block : int
        Columns that share a scale, a multiple of 8.
    planes : int
        Bytes of an integer: 1 or 2.
    is_unsigned : bool
        Whether 128 is added to every byte, so that it is unsigned.
    is_planar : bool
        Whether the bytes of a row and a plane follow each other. Otherwise, those of eight columns
        do, of all planes and rows.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        block: int,
        planes: int,
        *,
        is_unsigned: bool = False,
        is_planar: bool = False,
    ) -> None:
        self.rows, self.columns, self.block, self.planes = rows, columns, block, planes
        self.is_unsigned, self.is_planar = is_unsigned, is_planar
        self.blocks = -(-columns // block)
        self._pitch = self.blocks * block
        self._bytes = scratch(self._pitch * self.rows * self.planes, "uint8")
        self._scales = scratch(self.blocks * self.rows)
        self._sums = scratch(self.blocks * self.rows)

    def word(self, octet: Expr, row: Expr, plane: int, half: int, lanes: int) -> Expr:
        """Return a vector of one word: columns ``octet * 8 + half * 4`` to those plus 3 of a row.

        Plane 0 holds the low bytes.
        """
        place = self._place(octet, row, plane) + 4 * half
        return across(T.reinterpret("int32", self._bytes[vector(place, 4)]), lanes)

    def octet(self, octet: Expr, row: Expr, plane: int, size: int) -> Expr:
        """Return the bytes of eight columns, again and again up to a vector of `size` bytes."""
        eight = self._bytes[vector(self._place(octet, row, plane), _LANES)]
        return T.reinterpret(f"uint8x{size}", across(T.reinterpret("int64", eight), size // 8))

    def window(self, column: Expr, row: Expr, plane: int, count: int, size: int) -> Expr:
        """Return `count` bytes of planar rows from a column on, up to a vector of `size` bytes."""
        held = self._bytes[vector((row * self.planes + plane) * self._pitch + column, count)]
        if size == count:
            return held
        return T.Shuffle([T.bind(held)] * (size // count), list(range(size)))

    def scale(self, block: Expr, row: Expr, lanes: int) -> Expr:
        """Return a vector of what an integer of a block stands for."""
        return across(self._scales[block * self.rows + row], lanes)

    def sum(self, block: Expr, row: Expr, lanes: int) -> Expr:
        """Return a vector of the sum of the integers of a block, as floats."""
        return across(self._sums[block * self.rows + row], lanes)

    def round(self, x: Expr) -> None:
        """Emit the loops that round all rows of `x` ``[rows, K]``, float32."""
        whole, left = divmod(self.columns, self.block)
        with T.serial(T.int64(0), T.int64(self.rows)) as row:
            self._largest = Registers(2, _LANES)
            self._total = Registers(1, _LANES, "int32")
            if whole:
                with T.serial(T.int64(0), T.int64(whole)) as block:
                    self._round_block(x, row, block, self.block)
            if left:
                self._round_block(x, row, T.int64(whole), left)

    def _place(self, octet: Expr, row: Expr, plane: int) -> Expr:
        """Return where the bytes of eight columns of a row lie."""
        if self.is_planar:
            return (row * self.planes + plane) * self._pitch + octet * _LANES
        return ((octet * self.rows + row) * self.planes + plane) * _LANES

    def _round_block(self, x: Expr, row: Expr, block: Expr, columns: int) -> None:
        """Round the columns of a block; behind the first `columns` there are none."""
        largest, total = self._largest, self._total
        octets, left = divmod(columns, _LANES)

        def each(visit: Callable[[Expr, Expr], None], *, and_behind: bool = False) -> None:
            def octet_of(i: Expr) -> Expr:
                return T.bind(block * (self.block // _LANES) + i)

            if octets:
                with T.serial(T.int64(0), T.int64(octets)) as i:
                    octet = octet_of(i)
                    visit(octet, T.bind(x[row, vector(octet * _LANES, _LANES)]))
            if left:
                octet = octet_of(T.int64(octets))
                parts = [x[row, octet * _LANES + i] for i in range(left)]
                parts += [T.float32(0)] * (_LANES - left)
                visit(octet, T.bind(T.Shuffle(parts, list(range(_LANES)))))
            if and_behind:
                for i in range(octets + bool(left), self.block // _LANES):
                    visit(octet_of(T.int64(i)), filled(0, _LANES))

        def measure(_octet: Expr, value: Expr) -> None:
            largest[0] = T.max(largest[0], T.max(value, filled(0, _LANES) - value))
            largest[1] = largest[1] + value * filled(0, _LANES)

        def keep(octet: Expr, value: Expr) -> None:
            steps = T.bind(T.Cast(f"int32x{_LANES}", _rint(value * across(inverse, _LANES))))
            total[0] = total[0] + steps
            for plane, part in enumerate(_bytes(steps, self.planes)):
                if self.is_unsigned:
                    part = part + across(T.int32(128), _LANES)
                held = T.reinterpret(f"uint8x{_LANES}", T.Cast(f"int8x{_LANES}", part))
                T.buffer_store(self._bytes, held, [vector(self._place(octet, row, plane), _LANES)])

        largest[0] = largest[1] = filled(0, _LANES)
        total[0] = across(T.int32(0), _LANES)
        each(measure)
        most = T.bind(_reduced("float32", "fmax", largest[0]))
        not_finite = _reduced("float32", "fadd", largest[1], T.float32(0))
        levels, is_tiny = T.float32(_LEVELS[self.planes]), most < T.float32(_TINY)
        inverse = T.bind(T.Select(is_tiny, T.float32(0), levels / most))
        place = block * self.rows + row
        scale = T.Select(is_tiny, T.float32(0), most / levels) + not_finite
        T.buffer_store(self._scales, scale, [place])
        each(keep, and_behind=True)
        T.buffer_store(self._sums, T.Cast("float32", _reduced("int32", "add", total[0])), [place])


def _bytes(steps: Expr, planes: int) -> list[Expr]:
    """Return the signed bytes of integers, the low ones first."""
    if planes == 1:
        return [steps]
    shift = across(T.int32(24), _LANES)
    low = T.bind(T.shift_right(T.shift_left(steps, shift), shift))
    return [low, T.shift_right(steps - low, across(T.int32(8), _LANES))]


def _rint(value: Expr) -> Expr:
    return T.call_llvm_pure_intrin(f"float32x{_LANES}", f"llvm.rint.v{_LANES}f32", value)


def _reduced(dtype: str, how: str, value: Expr, *start: Expr) -> Expr:
    kind = {"float32": "f32", "int32": "i32"}[dtype]
    return T.call_llvm_pure_intrin(
        dtype, f"llvm.vector.reduce.{how}.v{_LANES}{kind}", *start, value
    )
