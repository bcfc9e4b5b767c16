"""Sums of 16 bits of the products of two neighbouring bytes, for sixteen output channels.

A step brings two bytes of each channel. After `steps` of them, the sums move on to 32 bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from tvm.tirx.script import builder as T

from tvm_sparse.formats.groups import GROUP
from tvm_sparse.schedules.emit import row_dots
from tvm_sparse.schedules.emit.buffers import Registers, across

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.cpu.row_dots import RowDots


class PairSums(ABC):
    """Sums in registers.

    Parameters
    ----------
    count : int
        Sums of each channel.
    dots : RowDots
        The processor's products of bytes.
    """

    lanes: ClassVar[int]
    """Lanes of a vector of sums of 32 bits."""
    steps: ClassVar[int]
    """Steps whose products fit in 16 bits."""
    is_unsigned: ClassVar[bool]
    """Whether factors are unsigned bytes, 128 larger than the integers that they stand for."""

    def __init__(self, count: int, dots: RowDots) -> None:
        self.count, self.dots = count, dots
        self.parts = GROUP // self.lanes
        self.allocate()

    @abstractmethod
    def allocate(self) -> None:
        """Allocate the registers."""

    @abstractmethod
    def clear(self) -> None:
        """Set all sums to zero."""

    def begin(self, codes: list[Expr]) -> None:
        """Begin a step with the codes of all channels."""
        del codes

    @abstractmethod
    def add(self, number: int, piece: int, x: Expr, codes: Expr) -> None:
        """Add the products of factors and codes, of a vector of some channels, to a sum."""

    @abstractmethod
    def whole(self, number: int) -> list[Expr]:
        """Return the vectors of a sum of all channels, of 32 bits."""


class UnsignedPairSums(PairSums):
    """Those of AVX2, whose factors are unsigned: the products of 128 are subtracted again.

    8 * 2 * 8 * 255 = 32640.
    """

    lanes, steps, is_unsigned = 8, 8, True

    def allocate(self) -> None:
        """Allocate a vector for each sum, and one for what unsigned factors add to all."""
        self._sums = row_dots.new_sums(self.count, self.dots)
        self._shift = row_dots.new_sums(1, self.dots)

    def clear(self) -> None:
        """Set all sums to zero."""
        for i in range(self.count):
            self._sums[i] = row_dots.no_products(self.dots)
        self._shift[0] = row_dots.no_products(self.dots)

    def begin(self, codes: list[Expr]) -> None:
        """Add the products of 128."""
        ones = across(T.uint8(128), self.dots.vector_bytes)
        self._shift[0] = row_dots.added(self._shift[0], ones, codes[0], self.dots)

    def add(self, number: int, piece: int, x: Expr, codes: Expr) -> None:
        """Add the products of a vector, which holds all channels."""
        del piece
        self._sums[number] = row_dots.added(self._sums[number], x, codes, self.dots)

    def whole(self, number: int) -> list[Expr]:
        """Return the two halves of a sum."""
        short = T.bind(self._sums[number] - self._shift[0])
        halves = (list(range(first, first + self.lanes)) for first in (0, self.lanes))
        return [T.Cast(f"int32x{self.lanes}", T.Shuffle([short], half)) for half in halves]


class SignedPairSums(PairSums):
    """Those of NEON, which are added up in pairs when they move on.

    16 * 8 * 128 = 16384.
    """

    lanes, steps, is_unsigned = 4, 16, False

    def allocate(self) -> None:
        """Allocate four vectors for each sum, two lanes a channel."""
        self._sums = Registers(self.count * self.parts, 2 * self.lanes, "int16")

    def clear(self) -> None:
        """Set all sums to zero."""
        for i in range(self.count * self.parts):
            self._sums[i] = across(T.int16(0), 2 * self.lanes)

    def add(self, number: int, piece: int, x: Expr, codes: Expr) -> None:
        """Add the products of a vector, which holds eight channels."""
        for half in range(2):
            lanes = list(range(8 * half, 8 * half + 8))
            factors = [
                T.Cast("int16x8", T.reinterpret("int8x8", T.Shuffle([value], lanes)))
                for value in (x, codes)
            ]
            i = number * self.parts + 2 * piece + half
            self._sums[i] = self._sums[i] + factors[0] * factors[1]

    def whole(self, number: int) -> list[Expr]:
        """Return the four quarters of a sum."""
        add = "llvm.aarch64.neon.saddlp.v4i32.v8i16"
        first = number * self.parts
        return [
            T.call_llvm_pure_intrin("int32x4", add, self._sums[first + part])
            for part in range(self.parts)
        ]
