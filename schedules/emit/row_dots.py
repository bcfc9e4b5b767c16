"""The products of rounded rows and the words of a packed weight, by products of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import Registers, across

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.cpu.row_dots import RowDots


def codes_of(word: Expr, bits: int, dots: RowDots) -> list[tuple[Expr, int, int]]:
    """Return the vectors of bytes in a vector of words, as an instruction takes them.

    Parameters
    ----------
    word : Expr
        A vector of uint8.
    bits : int
        Bits of a code.
    dots : RowDots
        The instruction. With sums of 16 bits, codes of 8 bits come in halves of 4.

    Returns
    -------
    list of tuple
        ``(codes, half, sum)``: the codes of the columns of half a word, or of one of two words that
        follow each other, and the number of the sum that their products are part of. Sum 1 counts
        16 times.
    """
    size = dots.vector_bytes
    if bits == 8 and dots.sum_bits == 32:
        return [(_flipped(word, size) if dots.is_signed else word, 0, 0)]
    low, high = (bits_of(word, shift, 4, size) for shift in (0, 4))
    return [(low, 0, 0), (high, 1, 0)] if bits == 4 else [(low, 0, 0), (high, 0, 1)]


def code_sums(bits: int, dots: RowDots) -> int:
    """Return how many sums the codes of a word are part of, see `codes_of`."""
    return 2 if bits == 8 and dots.sum_bits == 16 else 1


def zero_shift(bits: int, dots: RowDots) -> int:
    """Return by how much codes as `codes_of` returns them are smaller."""
    return 128 if bits == 8 and dots.is_signed else 0


def new_sums(count: int, dots: RowDots) -> Registers:
    """Return registers for sums of products."""
    return Registers(count, dots.vector_bytes * 8 // dots.sum_bits, f"int{dots.sum_bits}")


def no_products(dots: RowDots) -> Expr:
    """Return the sum of no products."""
    zero = T.int16(0) if dots.sum_bits == 16 else T.int32(0)
    return across(zero, dots.vector_bytes * 8 // dots.sum_bits)


def added(sums: Expr, codes: Expr, x: Expr, dots: RowDots) -> Expr:
    """Return sums plus the products of codes and of a vector of words of activations."""
    lanes, kind = dots.lanes, "int8" if dots.is_signed else "uint8"
    if dots.sum_bits == 16:
        operands = codes, T.reinterpret(f"uint8x{4 * lanes}", x)
        kind = f"int16x{2 * lanes}"
        product = T.call_llvm_pure_intrin(kind, dots.intrinsic, *operands)
        return sums + product
    bytes_of = [T.reinterpret(f"{kind}x{4 * lanes}", value) for value in (codes, x)]
    return T.call_llvm_pure_intrin(f"int32x{lanes}", dots.intrinsic, sums, *bytes_of)


def whole(parts: Sequence[Expr], dots: RowDots) -> Expr:
    """Return an int32 sum for each word, of the sums whose numbers `codes_of` gives."""
    wide = [_wide(part, dots) for part in parts]
    if len(wide) == 1:
        return wide[0]
    return wide[0] + T.shift_left(wide[1], across(T.int32(4), dots.lanes))


def _wide(part: Expr, dots: RowDots) -> Expr:
    """Return the sums of the two halves of words of 16 bits; those of 32 bits are whole."""
    if dots.sum_bits == 32:
        return part
    lanes = dots.lanes
    ones = across(T.int16(1), 2 * lanes)
    return T.call_llvm_pure_intrin(f"int32x{lanes}", "llvm.x86.avx2.pmadd.wd", part, ones)


def _flipped(word: Expr, size: int) -> Expr:
    """Return unsigned bytes less 128, as signed bytes."""
    return T.bind(T.bitwise_xor(word, across(T.uint8(128), size)))


_LOOKUPS = {
    (32, False): "llvm.x86.avx2.pshuf.b",
    (64, False): "llvm.x86.avx512.pshuf.b.512",
    (16, True): "llvm.aarch64.neon.tbl1.v16i8",
}
"""Lookups in tables of 16 bytes, by the bytes of a vector and whether the codes are signed."""


def looked_up(table: Expr, places: Expr, dots: RowDots) -> Expr:
    """Return the bytes of a table at some places; every 16 bytes of `places` have their own table.

    Parameters
    ----------
    table, places : Expr
        Vectors of uint8; places are below 16.
    dots : RowDots
        Whose vectors they are.
    """
    name = _LOOKUPS[dots.vector_bytes, dots.is_signed]
    return T.call_llvm_pure_intrin(f"uint8x{dots.vector_bytes}", name, table, places)


def bits_of(word: Expr, shift: int, bits: int, size: int) -> Expr:
    """Return `bits` bits of every byte from bit `shift` on; x86 shifts no bytes, but pairs."""
    if shift:
        pairs = T.reinterpret(f"uint16x{size // 2}", word)
        word = T.shift_right(pairs, across(T.uint16(shift), size // 2))
        word = T.reinterpret(f"uint8x{size}", word)
    return T.bind(T.bitwise_and(word, across(T.uint8((1 << bits) - 1), size)))
