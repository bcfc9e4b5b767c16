"""The table of processors and boards that can be compiled for.

Sizes of x86 processors are from the vendors' data sheets. Those of ARM boards are from

- Raspberry Pi: the Linux kernel's device trees (bcm2837.dtsi, bcm2711.dtsi, bcm2712.dtsi),
- NVIDIA's data sheet of Jetson Orin Nano (6 cores, 1.5 MB L2, 4 MB L3),
- AWS's documentation of Graviton (1 MB L2 a core, 32 MB L3) and Ampere's of Altra (the same),
- NXP's data sheet of i.MX 8M Plus, and Linux's device tree of it (imx8mp.dtsi),
- Linux's device tree of Apple's M1 (t8103.dtsi).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.memory_system import MemorySystem

KB = 1024
MB = 1024 * KB


@dataclass(frozen=True)
class Processor:
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
        Data cache sizes in bytes: L1 and L2 of one core (its share of an L2 that several cores have
        in common), L3 of the package.
    about : str
        For people: which board or processors.
    measured : MemorySystem, optional
        Clock and bandwidths, where they were measured.
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
    about: str = ""
    measured: MemorySystem | None = None


def _x86(name: str, bits: int, cores: int, l1: int, l2: int, l3: int, about: str = "") -> Processor:
    # Some AVX-512 processors are compiled for 256-bit vectors by default.
    mattr = ("-prefer-256-bit",) if bits == 512 else ()
    registers = 32 if bits == 512 else 16
    return Processor(
        name, "x86_64-unknown-linux-gnu", name, mattr, cores, bits, registers, l1, l2, l3, about
    )


def _arm(
    name: str, mcpu: str, cores: int, l1: int, l2: int, l3: int, about: str, *mattr: str
) -> Processor:
    return Processor(
        name, "aarch64-unknown-linux-gnu", mcpu, mattr, cores, 128, 32, l1, l2, l3, about
    )


# Cores are those of the board, or of a common small instance.
PROCESSORS = (
    _x86("x86-64-v3", 256, 4, 32 * KB, 256 * KB, 8 * MB, "any x86 with AVX2"),
    _x86("x86-64-v4", 512, 4, 32 * KB, 1 * MB, 16 * MB, "any x86 with AVX-512"),
    _x86("haswell", 256, 4, 32 * KB, 256 * KB, 8 * MB),
    _x86("skylake", 256, 4, 32 * KB, 256 * KB, 8 * MB),
    _x86("znver2", 256, 8, 32 * KB, 512 * KB, 16 * MB),
    _x86("znver3", 256, 8, 32 * KB, 512 * KB, 32 * MB),
    _x86("znver4", 512, 8, 32 * KB, 1 * MB, 32 * MB),
    _x86("skylake-avx512", 512, 8, 32 * KB, 1 * MB, 11 * MB),
    _x86("cascadelake", 512, 8, 32 * KB, 1 * MB, 16 * MB),
    _x86("icelake-server", 512, 8, 48 * KB, 1280 * KB, 24 * MB),
    _x86("sapphirerapids", 512, 8, 48 * KB, 2 * MB, 30 * MB),
    _arm("armv8-a", "generic", 4, 32 * KB, 128 * KB, 0, "any 64-bit ARM"),
    _arm("rpi3", "cortex-a53", 4, 32 * KB, 128 * KB, 0, "Raspberry Pi 3"),
    _arm("rpizero2w", "cortex-a53", 4, 32 * KB, 128 * KB, 0, "Raspberry Pi Zero 2 W"),
    _arm("rpi4", "cortex-a72", 4, 32 * KB, 256 * KB, 0, "Raspberry Pi 4"),
    _arm("rpi5", "cortex-a76", 4, 64 * KB, 512 * KB, 2 * MB, "Raspberry Pi 5"),
    _arm("jetson-orin", "cortex-a78ae", 6, 64 * KB, 256 * KB, 4 * MB, "NVIDIA Jetson Orin"),
    _arm("imx8", "cortex-a53", 4, 32 * KB, 128 * KB, 0, "NXP i.MX 8M"),
    _arm("graviton2", "neoverse-n1", 4, 64 * KB, 1 * MB, 32 * MB, "AWS Graviton2"),
    _arm("altra", "neoverse-n1", 4, 64 * KB, 1 * MB, 32 * MB, "Ampere Altra"),
    # Our kernels have vectors of a fixed length, and NEON's by-element multiply-add; SVE
    # would only add predicates.
    _arm("graviton3", "neoverse-v1", 4, 64 * KB, 1 * MB, 32 * MB, "AWS Graviton3", "-sve"),
    _arm("apple-m1", "apple-m1", 4, 128 * KB, 3 * MB, 8 * MB, "Apple M1 and later, Linux"),
    Processor(
        "riscv64", "riscv64-unknown-linux-gnu", "generic-rv64",
        ("+m", "+a", "+f", "+d", "+c", "+v"), 4, 128, 32, 32 * KB, 256 * KB, 0,
        "experimental: RISC-V with vectors of 128 bits or more",
    ),
)  # fmt: skip
