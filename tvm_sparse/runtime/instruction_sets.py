"""Instruction sets: which ones a library may use, and which ones this processor has.

A virtual machine may hide some of its processor's instruction sets, so the name of the processor
does not tell them. The operating system does.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable

import tvm
from tvm.target import codegen

from tvm_sparse.cpu.this_machine import cpu_flags

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
    "avx512fp16": "avx512_fp16",
}  # fmt: skip
_ARM = {
    "neon": "asimd", "fp-armv8": "fp", "lse": "atomics", "rdm": "asimdrdm", "rcpc": "lrcpc",
    "dotprod": "asimddp", "fullfp16": "asimdhp", "fp16fml": "asimdfhm", "bf16": "bf16",
    "i8mm": "i8mm", "sve": "sve", "sve2": "sve2", "complxnum": "fcma", "jsconv": "jscvt",
}  # fmt: skip
_RISCV = {"v": "v"}

_NAMES = _X86 | _ARM | _RISCV


def instruction_sets(target: tvm.target.Target) -> tuple[str, ...]:
    """Return the optional instruction sets of a target's processor, by LLVM's names."""
    features = {str(feature) for feature in codegen.llvm_get_cpu_features(target)}
    return tuple(name for name in _NAMES if name in features)


def missing(names: Iterable[str]) -> tuple[str, ...]:
    """Return the instruction sets that this processor lacks, as far as that is known."""
    here = _here()
    return () if here is None else tuple(name for name in names if name not in here)


@functools.cache
def _here() -> frozenset[str] | None:
    """Return the optional instruction sets of this processor; None if they are not known."""
    known = {"x86_64": _X86, "aarch64": _ARM}.get(platform.machine(), {})
    flags = cpu_flags()
    if known and flags:
        # An emulator may show the flags of the machine that it runs on, which is of another kind.
        return frozenset(name for name, flag in known.items() if flag in flags) or None
    mcpu = codegen.llvm_get_system_cpu()
    return frozenset(instruction_sets(tvm.target.Target({"kind": "llvm", "mcpu": mcpu})))
