"""Which instruction of a processor multiplies words of codes by words of rounded activations."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.cpu.instruction_sets import has_all
from tvm_sparse.cpu.profile import CpuProfile


@dataclass(frozen=True)
class RowDots:
    """An instruction that multiplies words of four bytes, and adds up the products of a word.

    Attributes
    ----------
    name : str
        What people call it.
    intrinsic : str
        LLVM's name.
    vector_bytes : int
        Bytes of a vector.
    sum_bits : int
        Bits of a sum: 32, or 16 where the two halves of a word have their own sums, which hold the
        products of `SHORT_COLUMNS` columns.
    is_signed : bool
        Whether the codes are signed; activations are.
    """

    name: str
    intrinsic: str
    vector_bytes: int
    sum_bits: int = 32
    is_signed: bool = False

    @property
    def lanes(self) -> int:
        """Words of a vector."""
        return self.vector_bytes // 4


SHORT_COLUMNS = 32
"""Input channels whose products fit in sums of 16 bits: codes of four bits meet signed bytes, two
to a sum, eight times, which makes 8 * 2 * 15 * 128 = 30720 at most."""

_AVX2 = RowDots("AVX2", "llvm.x86.avx2.pmadd.ub.sw", 32, sum_bits=16)
_X86 = (
    (("avx512vnni",), 512, RowDots("AVX-512 VNNI", "llvm.x86.avx512.vpdpbusd.512", 64)),
    (("avxvnni",), 256, RowDots("AVX-VNNI", "llvm.x86.avx512.vpdpbusd.256", 32)),
    (("avx2",), 256, _AVX2),
)
_ARM = (
    (
        ("dotprod",),
        128,
        RowDots("NEON dot products", "llvm.aarch64.neon.sdot.v4i32.v16i8", 16, is_signed=True),
    ),
)
_BY_ARCHITECTURE = {"x86_64": _X86, "aarch64": _ARM}
"""The instructions of each architecture, with the instruction sets and the bits of vectors that
they need, the fastest first."""


def row_dots(cpu: CpuProfile) -> RowDots | None:
    """Return the fastest products of words of a processor, or None if it has none."""
    for names, bits, found in _BY_ARCHITECTURE.get(cpu.architecture, ()):
        if cpu.vector_bits >= bits and has_all(names, cpu.triple, cpu.mcpu, cpu.mattr):
            return found
    return None


def shuffled_dots(cpu: CpuProfile) -> RowDots | None:
    """Return the products of pairs of bytes that a byte shuffle finds, or None if there are none.

    A shuffle looks up 16 bytes, so that vectors of 64 bytes gain nothing.
    """
    if cpu.architecture == "x86_64":
        has_avx2 = has_all(("avx2",), cpu.triple, cpu.mcpu, cpu.mattr)
        return _AVX2 if has_avx2 else None
    return row_dots(cpu)


def expanding_dots(cpu: CpuProfile) -> RowDots | None:
    """Return the products of words that bitmaps fill, or None if there are none.

    An instruction of AVX-512 puts bytes where the bits of a mask are.
    """
    found = row_dots(cpu)
    if found is None or found.vector_bytes != 64:
        return None
    return found if has_all(("avx512vbmi2",), cpu.triple, cpu.mcpu, cpu.mattr) else None
