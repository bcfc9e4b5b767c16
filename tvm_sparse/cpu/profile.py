"""CPU profiles: the facts of a processor that schedules and cost models depend on.

A profile is data. `native()` reads this machine's, `profile(name)` looks one up, and
`CpuProfile.from_target` finds the one that a TVM target describes.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace

import tvm
from tvm.target import codegen

from tvm_sparse.cpu import measurement, target_names
from tvm_sparse.cpu.instruction_sets import HALF, MATRIX_UNIT, corrections, has_all
from tvm_sparse.cpu.memory_system import MemorySystem, estimate
from tvm_sparse.cpu.processors import (
    PROCESSORS,
    UNKNOWN_CLOCK_GHZ,
    UNKNOWN_MEMORY_PEAK,
    Processor,
)
from tvm_sparse.cpu.this_machine import cache_sizes, cpu_name, usable_cores
from tvm_sparse.dtypes import ACTIVATIONS, DType, bytes_of
from tvm_sparse.errors import TargetError

SHORT_VECTOR_BITS = 256
"""Bits of the vectors that hold image rows of less than one vector register."""

LOADED_WEIGHTS = 4
"""Weights that kernels load together where multiply-adds take one from any element of a vector: as
many as there are offsets in a general register."""

LEAST_IMAGE_LANES = 8
"""Fewest lanes of a row of an image."""

SHORTEST_VECTOR_BITS = 128
"""Bits of the shortest vectors that kernels use."""


@dataclass(frozen=True)
class CpuProfile(Processor):
    """A processor, and what follows from its sizes.

    Attributes
    ----------
    token_lanes : int
        Lanes of panels of tokens that were measured to be the best; 0 lets `panel_lanes` choose.
    activations : DType
        Type of the panels of a network that is compiled for it.
    """

    token_lanes: int = 0
    activations: DType = ACTIVATIONS

    @property
    def architecture(self) -> str:
        """First word of the triple: the name that Linux has for the machine."""
        return self.triple.split("-")[0]

    @property
    def has_half(self) -> bool:
        """Whether the processor has arithmetic on vectors of float16."""
        return self._has(HALF)

    @property
    def has_matrix_unit(self) -> bool:
        """Whether the processor multiplies tiles of bfloat16, as Intel's AMX does."""
        return self._has(MATRIX_UNIT)

    def _has(self, sets: Mapping[str, tuple[str, ...]]) -> bool:
        return has_all(sets.get(self.architecture, ()), self.triple, self.mcpu, self.mattr)

    @property
    def memory_system(self) -> MemorySystem:
        """Clock and bandwidths: measured, or an estimate."""
        has_l3 = self.l3_bytes > 0
        return self.measured or estimate(
            self.clock_ghz,
            self.memory_peak,
            self.vector_bits,
            self.cores,
            has_l3,
            self.multiply_adds,
            self.loads,
        )

    def vector_lanes(self, dtype: str = ACTIVATIONS) -> int:
        """Return the values of one vector register."""
        return self.vector_bits // (8 * bytes_of(dtype))

    @property
    def loads_per_multiply_add(self) -> float:
        """Vectors that L1 delivers in the time of a vector multiply-add."""
        return self.loads / self.multiply_adds

    def weights_per_load(self, dtype: DType = ACTIVATIONS) -> int:
        """Return the weights that one load brings.

        NEON's multiply-adds take their weight from any element of a register, so that one load
        brings several weights, of any type. Those of x86 need each weight in all lanes, which takes
        a load of its own.
        """
        del dtype
        return LOADED_WEIGHTS if self.architecture == "aarch64" else 1

    def panel_lanes(self, tokens: int, dtype: DType = ACTIVATIONS) -> int:
        """Return how many of `tokens` tokens form one block of the row panel layout.

        One vector is enough if it holds all tokens. Otherwise two vectors share each load of a
        non-zero weight, and half a panel of a common width still fits L1. Three or four vectors are
        better if the registers suffice, and if they neither pad the tokens nor leave a core without
        a block.
        """
        vector = self.vector_lanes(dtype)
        if self.token_lanes and tokens > vector:
            return self.token_lanes
        if tokens <= vector:
            return vector
        if self.vector_registers >= 32:
            # On ARM one load brings several weights; whether three vectors gain there is not known.
            for vectors in (3, 4) if self.weights_per_load(dtype) == 1 else (4,):
                lanes = vectors * vector
                if tokens % lanes == 0 and tokens // lanes >= self.cores:
                    return lanes
        return 2 * vector

    def image_lanes(self, width: int, dtype: DType = ACTIVATIONS) -> int:
        """Return how many lanes hold a row of an image of `width` pixels.

        The lanes are whole vectors or, where one vector is enough, the least power of two from
        `LEAST_IMAGE_LANES` on.
        """
        vector = self.vector_lanes(dtype)
        if width > vector:
            return -(-width // vector) * vector
        return max(LEAST_IMAGE_LANES, 1 << (width - 1).bit_length())

    def vector_width(self, lanes: int, dtype: DType = ACTIVATIONS) -> int:
        """Return the values of the longest vector that divides panels of `lanes` lanes.

        Raises
        ------
        ValueError
            If even vectors of 128 bits do not divide them.
        """
        for bits in (self.vector_bits, SHORT_VECTOR_BITS, SHORTEST_VECTOR_BITS):
            width = bits // dtype.bits
            if bits <= self.vector_bits and lanes % width == 0:
                return width
        shortest = SHORTEST_VECTOR_BITS // dtype.bits
        raise ValueError(f"{lanes} lanes are not a multiple of {shortest}, the shortest vector")

    def to_target(self) -> tvm.target.Target:
        """Return the TVM target that compiles for this processor."""
        config: dict[str, object] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": self.mcpu,
            "num-cores": self.cores,
            "model": self.name,
            # LLVM's SLP vectorizer turns the index loads of the sparse kernels into slow
            # vector inserts and extracts; those kernels are vectorized already.
            "cl-opt": ["-vectorize-slp:bool=false"],
            "mattr": list(self.mattr),
        }
        if self.architecture == "riscv64":
            config["mabi"] = "lp64d"  # as in Linux distributions; LLVM's default has no floats
        return tvm.target.Target(config)

    @staticmethod
    def of(target: tvm.target.Target | CpuProfile) -> CpuProfile:
        """Return `target` if it is a profile, else the profile of the TVM target."""
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
        mcpu, model = (str(target.attrs.get(key, "")) for key in ("mcpu", "model"))
        name, _ = target_names.split(model, _is_known)
        same = [p for p in PROFILES.values() if p.architecture == _architecture(target)]
        known = [replace(p, name=model) for p in same if (p.name, p.mcpu) == (name, mcpu)]
        known += [p for p in same if mcpu in (p.mcpu, p.name) and name != "native"]
        if known:
            base = known[0]
        elif _architecture(target) == platform.machine() and mcpu in ("", native().mcpu):
            base = replace(native(), name=model if name == "native" else "native")
        else:
            base = _from_features(target)
        mattr = target.attrs.get("mattr")
        return replace(
            base,
            mattr=base.mattr if mattr is None else tuple(map(str, mattr)),
            cores=int(target.attrs.get("num-cores", base.cores)),
        )


PROFILES: dict[str, CpuProfile] = {
    processor.name: CpuProfile(**vars(processor)) for processor in PROCESSORS
}


def _is_known(name: str) -> bool:
    return name == "native" or name in PROFILES


def profile(name: str) -> CpuProfile:
    """Return the profile called `name`; ``"native"`` is this machine's.

    Suffixes add or take away features: ``"x86-64-v4+fp16"``, ``"native-amx"``.

    Raises
    ------
    TargetError
        If no profile has that name; the message suggests the nearest. If a suffix is unknown, or
        impossible on that processor.
    """
    base, suffixes = target_names.split(name, _is_known)
    if _is_known(base):
        cpu = native() if base == "native" else PROFILES[base]
        more = target_names.attributes(name, suffixes, cpu.architecture, cpu.vector_bits)
        return replace(cpu, name=name, mattr=target_names.joined(cpu.mattr, more))
    words = {"native": "native"}
    for cpu in PROFILES.values():
        words |= {cpu.about.lower(): cpu.name, cpu.mcpu: cpu.name}
    words |= {name: name for name in PROFILES}
    raise target_names.unknown(name, words)


@functools.cache
def native() -> CpuProfile:
    """Return this machine's profile, with what `tvm-sparse targets --measure` has stored.

    Raises
    ------
    TargetError
        If this machine has vectors of less than 256 bits (no AVX2).
    """
    mcpu = codegen.llvm_get_system_cpu()
    corrected = corrections(mcpu)
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu, "mattr": list(corrected)})
    known = [cpu for cpu in PROFILES.values() if cpu.mcpu == mcpu and "-avx512f" not in corrected]
    base = known[0] if known else _from_features(target)
    cores, caches = usable_cores(), cache_sizes()
    measured = measurement.load(cpu_name(), cores)
    l1, l2, l3 = measured.cache_bytes if measured else (base.l1_bytes, base.l2_bytes, None)
    # The system knows a core's own caches exactly, but not how much of a shared one is for us: a
    # virtual machine may be told the size of a cache that it shares with others. Clock and share of
    # the memory are not known either before they are measured.
    return replace(
        base,
        name="native",
        about="this machine, measured" if measured else "this machine",
        mattr=target_names.joined(base.mattr, corrected),
        cores=cores,
        clock_ghz=UNKNOWN_CLOCK_GHZ,
        memory_peak=UNKNOWN_MEMORY_PEAK,
        l1_bytes=caches.get(1, l1),
        l2_bytes=caches.get(2, l2),
        l3_bytes=caches.get(3, base.l3_bytes) if l3 is None else l3,
        measured=measured.system if measured else None,
    )


def _from_features(target: tvm.target.Target) -> CpuProfile:
    """Return a profile of the target's instruction set with common cache sizes."""
    mcpu = str(target.attrs.get("mcpu", ""))
    machine = _architecture(target)
    for name, feature in _BASELINES:
        base = PROFILES[name]
        if base.architecture == machine and codegen.llvm_cpu_has_features([feature], target):
            return replace(base, name=mcpu or name, mcpu=mcpu or base.mcpu)
    raise TargetError(
        f"no profile for processor {mcpu!r} of {machine}: it has neither AVX2 nor AVX-512, and is "
        "no 64-bit ARM; `tvm-sparse targets` lists the known ones"
    )


# The widest vectors first.
_BASELINES = (
    ("x86-64-v4", "avx512f"),
    ("x86-64-v3", "avx2"),
    ("armv8-a", "neon"),
    ("riscv64", "v"),
)


def _architecture(target: tvm.target.Target) -> str:
    machine = str(target.attrs.get("mtriple", platform.machine())).split("-")[0]
    return {"arm64": "aarch64"}.get(machine, machine)
