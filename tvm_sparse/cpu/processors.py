"""The table of processors and boards that can be compiled for.

Sizes of x86 processors are from the vendors' data sheets. Those of ARM boards, with their clocks
and memory (`tvm_sparse.cpu.memory_system`), are from

- Raspberry Pi's documentation, pages "BCM2837", "RP3A0", "BCM2711", "BCM2712"
  (raspberrypi.com/documentation/computers/processors.html): 4 cores at 1.2, 1.0, 1.5, 2.4 GHz;
  L2 of 1 MB for all cores of the rpi4, of 512 KB for each of the rpi5, whose L3 is 2 MB and whose
  memory gives 17 GB/s. L2 of the rpi3 and zero2w (one die), 512 KB for all: Linux's
  bcm2837.dtsi, after Raspberry Pi's data sheet of the Compute Module 3;
- NVIDIA's data sheet of Jetson Orin Nano: 6 cores in two clusters, 256 KB L2 a core, 2 MB L3 a
  cluster, 1.5 GHz, 68 GB/s. The AGX modules have up to 12 such cores;
- AWS's Graviton Technical Guide (github.com/aws/aws-graviton-getting-started): 64 KB L1, 1 MB L2 a
  core, 32 MB for all; 2.5 and 2.6 GHz; 2 and 4 NEON pipelines;
- Ampere's announcement of Altra: 64 KB L1, 1 MB L2 a core, 32 MB system cache, 3.0 GHz;
- Linux's imx8mp.dtsi, of i.MX 8M Plus: 512 KB L2 for all of 4 cores, 1.8 GHz. Those of 8M Quad are
  slower (1.5 GHz) with 1 MB;
- Apple M1: four fast cores with 128 KB L1 and 12 MB L2 for all four, 8 MB system cache, 3.2 GHz
  (en.wikipedia.org/wiki/Apple_M1; Apple publishes none of them).

Not confirmed by any document: ``armv8-a`` and ``riscv64``, which are what small boards have in
common.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.cpu.memory_system import MemorySystem

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
    multiply_adds, loads : float
        Of vectors, that a core starts in a cycle; loads from L1.
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
    multiply_adds: float = 2
    loads: float = 2


def _x86(name: str, bits: int, cores: int, l1: int, l2: int, l3: int, about: str = "") -> Processor:
    # Some AVX-512 processors are compiled for 256-bit vectors by default.
    mattr = ("-prefer-256-bit",) if bits == 512 else ()
    registers = 32 if bits == 512 else 16
    units = 1 if name == "znver4" else 2  # half as wide as its registers
    return Processor(
        *(name, "x86_64-unknown-linux-gnu", name, mattr, cores, bits, registers, l1, l2, l3, about),
        multiply_adds=units,
        loads=units,
    )


# Vector multiply-adds and loads a cycle.
_ARM_UNITS: dict[str, tuple[float, float]] = {
    "generic": (1, 1),  # the a72's
    # A load of 128 bits takes two cycles, and no multiply-add starts beside it (ncnn's developer
    # guide "arm-a53-a55-dual-issue"); multiply-adds as in LLVM's model of the core.
    "cortex-a53": (1, 0.5),
    # LLVM's model of the a57, which LLVM takes for the a72 too; Arm's guide was not at hand.
    "cortex-a72": (1, 1),
    # Two pipelines of 128 bits and two for loads (A. Frumusanu, AnandTech, "Arm's Cortex-A76 CPU
    # unveiled"). The Neoverse N1 is its sibling; LLVM's models of n1 and v1 and AWS's guide agree.
    # The a78ae: multiply-adds from Arm's software optimization guide; loads taken for the a76's.
    "cortex-a76": (2, 2),
    "cortex-a78ae": (2, 2),
    "neoverse-n1": (2, 2),
    "neoverse-v1": (4, 3),
    # D. Johnson, "Apple Microarchitecture Research" (dougallj.github.io/applecpu/firestorm.html).
    "apple-m1": (4, 3),
}


def _arm(
    name: str, mcpu: str, cores: int, l1: int, l2: int, l3: int, about: str, *mattr: str
) -> Processor:
    multiply_adds, loads = _ARM_UNITS[mcpu]
    return Processor(
        *(name, "aarch64-unknown-linux-gnu", mcpu, mattr, cores, 128, 32, l1, l2, l3, about),
        multiply_adds=multiply_adds,
        loads=loads,
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
    # Not SVE: two vectors of 256 bits a cycle are as much as NEON's four of 128 (AWS's guide), and
    # our vectors have a fixed length, which TVM keeps: it emits NEON for them even with SVE.
    _arm("graviton3", "neoverse-v1", 4, 64 * KB, 1 * MB, 32 * MB, "AWS Graviton3", "-sve"),
    _arm("apple-m1", "apple-m1", 4, 128 * KB, 3 * MB, 8 * MB, "Apple M1 and later, Linux"),
    Processor(
        "riscv64", "riscv64-unknown-linux-gnu", "generic-rv64",
        ("+m", "+a", "+f", "+d", "+c", "+v"), 4, 128, 32, 32 * KB, 256 * KB, 0,
        "experimental: RISC-V with vectors of 128 bits or more",
    ),
)  # fmt: skip
