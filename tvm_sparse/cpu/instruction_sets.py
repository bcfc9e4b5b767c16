"""Instruction sets: which ones a target has, and which ones this processor has.

A virtual machine may hide some of its processor's instruction sets, or LLVM may take the processor
for another one, so its name does not tell them. The operating system does.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tvm_sparse.cpu.this_machine import cpu_flags

if TYPE_CHECKING:
    import tvm

# TVM is imported where LLVM is asked, which loading a library need not do on common processors.

# What LLVM may use without being told to, by LLVM's names: the names that Linux has for them.
_X86 = {
    "sse3": "pni", "ssse3": "ssse3", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "popcnt": "popcnt",
    "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c", "movbe": "movbe",
    "bmi": "bmi1", "bmi2": "bmi2", "lzcnt": "abm", "fma4": "fma4", "xop": "xop", "tbm": "tbm",
    "avxvnni": "avx_vnni", "gfni": "gfni", "vpclmulqdq": "vpclmulqdq",
    "avx512f": "avx512f", "avx512cd": "avx512cd", "avx512bw": "avx512bw", "avx512dq": "avx512dq",
    "avx512vl": "avx512vl", "avx512ifma": "avx512ifma", "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2", "avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg", "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512fp16": "avx512_fp16", "amx-tile": "amx_tile", "amx-bf16": "amx_bf16",
    "amx-int8": "amx_int8", "amx-fp16": "amx_fp16",
}  # fmt: skip
_ARM = {
    "neon": "asimd", "fp-armv8": "fp", "lse": "atomics", "rdm": "asimdrdm", "rcpc": "lrcpc",
    "dotprod": "asimddp", "fullfp16": "asimdhp", "fp16fml": "asimdfhm", "bf16": "bf16",
    "i8mm": "i8mm", "sve": "sve", "sve2": "sve2", "complxnum": "fcma", "jsconv": "jscvt",
}  # fmt: skip
_RISCV = {"v": "v"}

_NAMES = _X86 | _ARM | _RISCV

HALF: dict[str, tuple[str, ...]] = {"x86_64": ("avx512fp16",), "aarch64": ("fullfp16",)}
"""The instruction sets with float16 arithmetic on vectors, by architecture."""

MATRIX_UNIT: dict[str, tuple[str, ...]] = {"x86_64": ("amx-tile", "amx-bf16", "avx512bf16")}
"""The instruction sets that multiply tiles of bfloat16, and that convert to it, by architecture."""

BYTE_MATRIX_UNIT: dict[str, tuple[str, ...]] = {"x86_64": ("amx-tile", "amx-int8")}
"""The instruction sets that multiply tiles of bytes, by architecture."""

VNNI: dict[str, tuple[str, ...]] = {"x86_64": ("avx512vnni",)}
DOT_PRODUCTS: dict[str, tuple[str, ...]] = {"aarch64": ("dotprod",)}
"""The instruction sets with dot products of bytes, by architecture."""

_FOR_HALF = tuple(
    name
    for sets in (HALF, MATRIX_UNIT)
    for names in sets.values()
    for name in names
    if name != "amx-tile"
)
_ADDED = (*_FOR_HALF, *(name for names in BYTE_MATRIX_UNIT.values() for name in names))


def has_all(names: Iterable[str], triple: str, mcpu: str, mattr: tuple[str, ...]) -> bool:
    """Return whether a processor has instruction sets, of which there must be one, by LLVM."""
    wanted = frozenset(names)
    return bool(wanted) and wanted <= _features(triple, mcpu, mattr)


@functools.cache
def _features(triple: str, mcpu: str, mattr: tuple[str, ...]) -> frozenset[str]:
    import tvm
    from tvm.target import codegen

    target = tvm.target.Target(
        {"kind": "llvm", "mtriple": triple, "mcpu": mcpu, "mattr": list(mattr)}
    )
    return frozenset(str(feature) for feature in codegen.llvm_get_cpu_features(target))


def corrections(mcpu: str) -> tuple[str, ...]:
    """Return the LLVM attributes by which the named processor becomes this machine's.

    Those that it has by name and that the system does not show are taken away, and those that half
    precision and the matrix unit need are added where the system shows them. There are none if the
    system shows nothing.
    """
    here = _shown()
    if here is None:
        return ()
    import tvm

    named = instruction_sets(tvm.target.Target({"kind": "llvm", "mcpu": mcpu}))
    known = {"x86_64": _X86, "aarch64": _ARM}[platform.machine()]
    lost = tuple(f"-{name}" for name in known if name in named and name not in here)
    more = tuple(f"+{name}" for name in _ADDED if name in here and name not in named)
    return lost + more


def without_half(mattr: tuple[str, ...]) -> tuple[str, ...]:
    """Return attributes without what `corrections` or a user added for half precision."""
    added = {f"+{name}" for name in _FOR_HALF}
    return tuple(attribute for attribute in mattr if attribute not in added)


def instruction_sets(target: tvm.target.Target) -> tuple[str, ...]:
    """Return the optional instruction sets of a target's processor, by LLVM's names."""
    from tvm.target import codegen

    features = {str(feature) for feature in codegen.llvm_get_cpu_features(target)}
    return tuple(name for name in _NAMES if name in features)


def missing(names: Iterable[str]) -> tuple[str, ...]:
    """Return the instruction sets that this processor lacks, as far as that is known."""
    here = _here()
    return () if here is None else tuple(name for name in names if name not in here)


@functools.cache
def _here() -> frozenset[str] | None:
    """Return the optional instruction sets of this processor; None if they are not known."""
    if {"x86_64", "aarch64"} & {platform.machine()} and cpu_flags():
        return _shown()
    import tvm
    from tvm.target import codegen

    mcpu = codegen.llvm_get_system_cpu()
    return frozenset(instruction_sets(tvm.target.Target({"kind": "llvm", "mcpu": mcpu})))


def _shown() -> frozenset[str] | None:
    """Return the optional instruction sets that the system shows; None if it shows none."""
    known = {"x86_64": _X86, "aarch64": _ARM}.get(platform.machine(), {})
    flags = cpu_flags()
    # An emulator may show the flags of the machine that it runs on, which is of another kind.
    return frozenset(name for name, flag in known.items() if flag in flags) or None
