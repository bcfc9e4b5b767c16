"""What this machine's processor can do, under the names that DeepSparse has for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tvm_sparse.cpu.this_machine import cache_sizes, cpu_flags, cpu_name, usable_cores

VALID_VECTOR_EXTENSIONS = frozenset({"avx2", "avx512", "neon", "sve"})
"""The names of vector extensions in `cpu_details`."""


def cpu_architecture() -> Mapping[str, object]:
    """Return what is known of this machine's processor; the mapping cannot be changed."""
    flags, caches = cpu_flags(), cache_sizes()
    return MappingProxyType(
        {
            "vendor_name": cpu_name(),
            "isa": _isa(flags),
            "vnni": _has_vnni(flags),
            "bf16": bool({"avx512_bf16", "bf16"} & flags),
            "amx": "amx_tile" in flags,
            "available_cores": usable_cores(),
            "L1_data_cache_size": caches.get(1),
            "L2_cache_size": caches.get(2),
            "L3_cache_size": caches.get(3),
        }
    )


def cpu_details() -> tuple[int, str, bool]:
    """Return the usable cores, the vector extension, and whether there are VNNI instructions."""
    flags = cpu_flags()
    return usable_cores(), _isa(flags), _has_vnni(flags)


def cpu_vnni_compatible() -> bool:
    """Return whether the processor has instructions for products of 8-bit integers."""
    return _has_vnni(cpu_flags())


def cpu_avx2_compatible() -> bool:
    """Return whether the processor has AVX2."""
    return "avx2" in cpu_flags()


def cpu_avx512_compatible() -> bool:
    """Return whether the processor has AVX-512."""
    return "avx512f" in cpu_flags()


def cpu_neon_compatible() -> bool:
    """Return whether the processor is an ARM with vectors."""
    return "asimd" in cpu_flags()


def cpu_sve_compatible() -> bool:
    """Return whether the processor is an ARM with SVE."""
    return "sve" in cpu_flags()


def print_hardware_capability() -> None:
    """Print what this machine can do; ``tvm-sparse doctor`` says more."""
    cores, isa, has_vnni = cpu_details()
    print(f"{cpu_name()}: {cores} usable cores, {isa}, {'with' if has_vnni else 'no'} VNNI")


def _isa(flags: frozenset[str]) -> str:
    names = (("avx512f", "avx512"), ("avx2", "avx2"), ("sve", "sve"), ("asimd", "neon"))
    return next((name for flag, name in names if flag in flags), "unknown")


def _has_vnni(flags: frozenset[str]) -> bool:
    return bool({"avx512_vnni", "avx_vnni"} & flags)
