"""CPU profiles: what the schedules and the cost model need to know of a processor.

A profile is data. `native()` reads this machine's, `profile(name)` looks one up, and
`CpuProfile.from_target` finds the one that a TVM target describes.
"""

from __future__ import annotations

import difflib
import functools
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_sparse.errors import TargetError

if TYPE_CHECKING:
    import tvm

KB = 1024
MB = 1024 * KB


@dataclass(frozen=True)
class CpuProfile:
    """Size of a core: what its vectors, registers and caches hold.

    Attributes
    ----------
    name : str
        What the user writes after ``--target``.
    triple : str
        LLVM target triple.
    mcpu : str
        LLVM processor name.
    mattr : tuple of str
        LLVM processor features in addition to those of `mcpu`.
    cores : int
        Cores that a parallel loop is spread over.
    vector_bits : int
        Width of a vector register, in bits.
    vector_registers : int
        Number of vector registers.
    l1_bytes, l2_bytes, l3_bytes : int
        Data cache sizes in bytes: L1 and L2 of one core, L3 of the package.
    """

    name: str
    triple: str
    mcpu: str
    mattr: tuple[str, ...]
    cores: int
    vector_bits: int
    vector_registers: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int

    @property
    def vector_lanes(self) -> int:
        """Number of float32 values in one vector register."""
        return self.vector_bits // 32

    def panel_lanes(self, tokens: int) -> int:
        """Return how many of `tokens` tokens form one block of the row panel layout.

        Two vectors: each non-zero weight is loaded once for both, and a panel of a common width
        still fits L1 by halves. One, if that holds all tokens. Four, if the registers suffice and
        it neither pads the tokens nor leaves a core without a block (measured with AVX-512:
        BERT-base at 80 % zeros is 8 % faster than with two, at 95 % as fast).
        """
        wide = 4 * self.vector_lanes
        if tokens <= self.vector_lanes:
            return self.vector_lanes
        if self.vector_registers >= 32 and tokens % wide == 0 and tokens // wide >= self.cores:
            return wide
        return 2 * self.vector_lanes

    def image_lanes(self, width: int) -> int:
        """Return how many lanes hold a row of an image of `width` columns.

        Whole vectors; where one vector is enough, a multiple of 8.
        """
        whole = self.vector_lanes if width > self.vector_lanes else 8
        return -(-width // whole) * whole

    def vector_width(self, lanes: int) -> int:
        """Return the values per vector for panels of `lanes` lanes: the longest that divides them.

        Raises
        ------
        ValueError
            If even vectors of 4 values don't.
        """
        for width in (self.vector_lanes, 8, 4):
            if width <= self.vector_lanes and lanes % width == 0:
                return width
        raise ValueError(f"{lanes} lanes are not a multiple of 4, the shortest vector")

    def to_target(self) -> tvm.target.Target:
        """Return the TVM target that compiles for this processor."""
        import tvm

        config: dict[str, object] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": self.mcpu,
            "num-cores": self.cores,
            # LLVM's SLP vectorizer turns the index loads of the sparse kernels into slow
            # vector inserts and extracts; those kernels are vectorized already.
            "cl-opt": ["-vectorize-slp:bool=false"],
        }
        if self.mattr:
            config["mattr"] = list(self.mattr)
        return tvm.target.Target(config)

    @staticmethod
    def of(target: tvm.target.Target | CpuProfile) -> CpuProfile:
        """Return `target` itself if it is a profile, else that of the TVM target."""
        return target if isinstance(target, CpuProfile) else CpuProfile.from_target(target)

    @staticmethod
    def from_target(target: tvm.target.Target) -> CpuProfile:
        """Return the profile of a TVM target.

        The target's own ``mcpu``, ``mattr`` and ``num-cores`` win over the profile's.

        Raises
        ------
        TargetError
            If the target is not an LLVM target.
        """
        if target.kind.name != "llvm":
            raise TargetError(f"tvm_sparse compiles for llvm targets, not for {target.kind.name!r}")
        mcpu = str(target.attrs.get("mcpu", ""))
        known = next((p for p in PROFILES.values() if mcpu in (p.mcpu, p.name)), None)
        here = native()
        base = known or (here if mcpu in ("", here.mcpu) else _from_features(target))
        mattr = target.attrs.get("mattr")
        return replace(
            base,
            mattr=tuple(str(a) for a in mattr) if mattr else base.mattr,
            cores=int(target.attrs.get("num-cores", base.cores)),
        )


def _x86(name: str, mcpu: str, bits: int, cores: int, l1: int, l2: int, l3: int) -> CpuProfile:
    # Some AVX-512 processors are compiled for 256-bit vectors by default.
    mattr = ("-prefer-256-bit",) if bits == 512 else ()
    registers = 32 if bits == 512 else 16
    return CpuProfile(
        name, "x86_64-unknown-linux-gnu", mcpu, mattr, cores, bits, registers, l1, l2, l3
    )


# Sizes from the vendors' data sheets; cores are those of a common small instance or board.
PROFILES: dict[str, CpuProfile] = {
    p.name: p
    for p in (
        _x86("x86-64-v3", "x86-64-v3", 256, 4, 32 * KB, 256 * KB, 8 * MB),
        _x86("x86-64-v4", "x86-64-v4", 512, 4, 32 * KB, 1 * MB, 16 * MB),
        _x86("haswell", "haswell", 256, 4, 32 * KB, 256 * KB, 8 * MB),
        _x86("skylake", "skylake", 256, 4, 32 * KB, 256 * KB, 8 * MB),
        _x86("znver2", "znver2", 256, 8, 32 * KB, 512 * KB, 16 * MB),
        _x86("znver3", "znver3", 256, 8, 32 * KB, 512 * KB, 32 * MB),
        _x86("znver4", "znver4", 512, 8, 32 * KB, 1 * MB, 32 * MB),
        _x86("skylake-avx512", "skylake-avx512", 512, 8, 32 * KB, 1 * MB, 11 * MB),
        _x86("cascadelake", "cascadelake", 512, 8, 32 * KB, 1 * MB, 16 * MB),
        _x86("icelake-server", "icelake-server", 512, 8, 48 * KB, 1280 * KB, 24 * MB),
        _x86("sapphirerapids", "sapphirerapids", 512, 8, 48 * KB, 2 * MB, 30 * MB),
    )
}


def profile(name: str) -> CpuProfile:
    """Return the profile called `name`; ``"native"`` is this machine's.

    Raises
    ------
    TargetError
        If no profile has that name; the message suggests the nearest.
    """
    if name == "native":
        return native()
    if name in PROFILES:
        return PROFILES[name]
    near = difflib.get_close_matches(name, ["native", *PROFILES], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise TargetError(f"unknown target {name!r}: {hint}`tvm-sparse targets` lists all of them")


@functools.cache
def native() -> CpuProfile:
    """Return this machine's profile.

    Raises
    ------
    TargetError
        If this machine has vectors of less than 256 bits (no AVX2).
    """
    import tvm
    from tvm.target import codegen

    mcpu = codegen.llvm_get_system_cpu()
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
    base = replace(_from_features(target), name="native", cores=_usable_cores())
    caches = _caches()
    return replace(
        base,
        l1_bytes=caches.get(1, base.l1_bytes),
        l2_bytes=caches.get(2, base.l2_bytes),
        l3_bytes=caches.get(3, base.l3_bytes),
    )


def _from_features(target: tvm.target.Target) -> CpuProfile:
    """Return a profile of the target's instruction set with common cache sizes."""
    from tvm.target import codegen

    mcpu = str(target.attrs.get("mcpu", ""))
    if codegen.llvm_cpu_has_features(["avx512f"], target):
        return replace(PROFILES["x86-64-v4"], name=mcpu, mcpu=mcpu)
    if codegen.llvm_cpu_has_features(["avx2"], target):
        return replace(PROFILES["x86-64-v3"], name=mcpu, mcpu=mcpu)
    machine = target.attrs.get("mtriple", platform.machine())
    raise TargetError(
        f"no profile for processor {mcpu!r} of {machine}: it has neither AVX2 nor AVX-512; "
        "`tvm-sparse targets` lists the known ones"
    )


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def _caches() -> dict[int, int]:
    """Return the bytes of core 0's data caches by level, as far as Linux tells."""
    sizes: dict[int, int] = {}
    units = {"K": KB, "M": MB}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, level, size = (
                (index / name).read_text().strip() for name in ("type", "level", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            sizes[int(level)] = int(size[:-1]) * units[size[-1]]
    return sizes
