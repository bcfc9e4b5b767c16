"""Which units of a processor multiply and sum up small integers exactly."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.cpu.instruction_sets import BYTE_MATRIX_UNIT, has_all
from tvm_sparse.cpu.profile import CpuProfile


@dataclass(frozen=True)
class DotProducts:
    """An instruction that adds dot products of words to a vector of int32 sums.

    Attributes
    ----------
    name : str
        What people call it.
    intrinsic : str
        LLVM's name.
    lanes : int
        Words of a vector.
    per_word : int
        Integers of a word: four of 8 bits, or two of 16.
    is_signed : bool
        Whether the integers of panels are signed; those of weights are.
    adds : bool
        Whether the instruction adds to the sums by itself.
    by_element : bool
        Whether it takes a weight from any element of a vector.
    """

    name: str
    intrinsic: str
    lanes: int
    per_word: int = 4
    is_signed: bool = False
    adds: bool = True
    by_element: bool = False


_SHORT, _LONG = 256, 512
_X86 = (
    (("avx512vnni",), _LONG, DotProducts("VNNI", "llvm.x86.avx512.vpdpbusd.512", 16)),
    (("avx512vnni", "avx512vl"), _SHORT, DotProducts("VNNI", "llvm.x86.avx512.vpdpbusd.256", 8)),
    (("avxvnni",), _SHORT, DotProducts("VNNI", "llvm.x86.avx512.vpdpbusd.256", 8)),
    (
        ("avx512bw",),
        _LONG,
        DotProducts("AVX-512", "llvm.x86.avx512.pmaddw.d.512", 16, per_word=2, adds=False),
    ),
    (
        ("avx2",),
        _SHORT,
        DotProducts("AVX2", "llvm.x86.avx2.pmadd.wd", 8, per_word=2, adds=False),
    ),
)
_ARM = (
    (
        ("dotprod",),
        128,
        DotProducts(
            "dot products",
            "llvm.aarch64.neon.sdot.v4i32.v16i8",
            4,
            is_signed=True,
            by_element=True,
        ),
    ),
)
_BY_ARCHITECTURE = {"x86_64": _X86, "aarch64": _ARM}
"""The instructions of each architecture, with the instruction sets and the vectors' bits that they
need, the fastest first. AVX2 has none for bytes that does not saturate."""


def dot_products(cpu: CpuProfile) -> DotProducts | None:
    """Return the fastest dot products of a processor, or None if it has none."""
    for names, bits, found in _BY_ARCHITECTURE.get(cpu.architecture, ()):
        if cpu.vector_bits == bits and has_all(names, cpu.triple, cpu.mcpu, cpu.mattr):
            return found
    return None


def has_byte_matrix_unit(cpu: CpuProfile) -> bool:
    """Return whether a processor multiplies tiles of bytes, as Intel's AMX does."""
    names = BYTE_MATRIX_UNIT.get(cpu.architecture, ())
    return cpu.vector_bits == _LONG and has_all(names, cpu.triple, cpu.mcpu, cpu.mattr)
