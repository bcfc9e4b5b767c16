"""The table of processors and boards that can be compiled for: a new board is one row of it.

Sizes, clocks and memories of x86 processors are from the vendors' data sheets. The clock is the one
under vector load. The memory's peak rate follows from its channels, transfers and width; for a
server it is the share of a common small instance. Those of ARM boards are from

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

No document confirms ``armv8-a`` and ``riscv64``, which stand for what small boards have in common,
nor the memory rates of the rpi3 (LPDDR2-900, 32 bits), the rpi4 (LPDDR4-3200, 32 bits; Raspberry
Pi's documentation of the BCM2711 says 2400), the imx8 (LPDDR4-4000, 32 bits), the M1 and the
servers.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.cpu.memory_system import MemorySystem

KB = 1024
MB = 1024 * KB

UNKNOWN_CLOCK_GHZ, UNKNOWN_MEMORY_PEAK = _UNKNOWN = (2.5, 40.0)
"""Clock in GHz, and peak rate of the memory in GB/s, of a processor whose own are not known."""


@dataclass(frozen=True)
class Processor:
    """A processor: what its vectors, registers and caches hold, and how fast it is.

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
    clock_ghz : float
        Clock under vector load, in GHz.
    memory_peak : float
        Peak rate of the memory, in GB/s.
    about : str
        The board or processors, in words for people.
    measured : MemorySystem, optional
        Clock and bandwidths that were measured; None if they were not.
    multiply_adds : float
        Vector multiply-adds that a core starts in a cycle.
    loads : float
        Vectors that a core loads from L1 in a cycle.
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
    clock_ghz: float = UNKNOWN_CLOCK_GHZ
    memory_peak: float = UNKNOWN_MEMORY_PEAK
    about: str = ""
    measured: MemorySystem | None = None
    multiply_adds: float = 2
    loads: float = 2


def _x86(
    name: str,
    bits: int,
    cores: int,
    clock_ghz: float,
    memory_peak: float,
    l1: int,
    l2: int,
    l3: int,
    about: str = "",
    units: int = 2,
) -> Processor:
    """Return an x86 processor that starts `units` vector multiply-adds and loads in a cycle."""
    return Processor(
        name,
        "x86_64-unknown-linux-gnu",
        mcpu=name,
        # Some AVX-512 processors are compiled for 256-bit vectors by default.
        mattr=("-prefer-256-bit",) if bits == 512 else (),
        cores=cores,
        vector_bits=bits,
        vector_registers=32 if bits == 512 else 16,
        clock_ghz=clock_ghz,
        memory_peak=memory_peak,
        l1_bytes=l1,
        l2_bytes=l2,
        l3_bytes=l3,
        about=about,
        multiply_adds=units,
        loads=units,
    )


# Vector multiply-adds and loads that a core starts in a cycle.
_ARM_UNITS: dict[str, tuple[float, float]] = {
    "generic": (1, 1),  # like the a72
    # A load of 128 bits takes two cycles, and no multiply-add starts beside it (ncnn's developer
    # guide "arm-a53-a55-dual-issue"); multiply-adds as in LLVM's model of the core.
    "cortex-a53": (1, 0.5),
    # LLVM's model of the a57, which LLVM takes for the a72 too; Arm's guide was not at hand.
    "cortex-a72": (1, 1),
    # Two pipelines of 128 bits and two for loads (A. Frumusanu, AnandTech, "Arm's Cortex-A76 CPU
    # unveiled"). The Neoverse N1 is its sibling; LLVM's models of n1 and v1 and AWS's guide agree.
    # Multiply-adds of the a78ae are from Arm's software optimization guide; its loads are taken to
    # be the a76's.
    "cortex-a76": (2, 2),
    "cortex-a78ae": (2, 2),
    "neoverse-n1": (2, 2),
    "neoverse-v1": (4, 3),
    # D. Johnson, "Apple Microarchitecture Research" (dougallj.github.io/applecpu/firestorm.html).
    "apple-m1": (4, 3),
}


def _arm(
    name: str,
    mcpu: str,
    cores: int,
    clock_ghz: float,
    memory_peak: float,
    l1: int,
    l2: int,
    l3: int,
    about: str,
    *mattr: str,
) -> Processor:
    multiply_adds, loads = _ARM_UNITS[mcpu]
    return Processor(
        name,
        "aarch64-unknown-linux-gnu",
        mcpu=mcpu,
        mattr=mattr,
        cores=cores,
        vector_bits=128,
        vector_registers=32,
        clock_ghz=clock_ghz,
        memory_peak=memory_peak,
        l1_bytes=l1,
        l2_bytes=l2,
        l3_bytes=l3,
        about=about,
        multiply_adds=multiply_adds,
        loads=loads,
    )


# Columns: name, vector bits (x86) or LLVM's name (ARM), cores, clock in GHz, peak of the memory in
# GB/s, L1, L2, L3. Cores are those of the board, or of a common small instance.
PROCESSORS = (
    _x86("x86-64-v3", 256, 4, *_UNKNOWN, 32 * KB, 256 * KB, 8 * MB, "any x86 with AVX2"),
    _x86("x86-64-v4", 512, 4, *_UNKNOWN, 32 * KB, 1 * MB, 16 * MB, "any x86 with AVX-512"),
    _x86("haswell", 256, 4, 3.4, 25.6, 32 * KB, 256 * KB, 8 * MB),
    _x86("skylake", 256, 4, 3.5, 34.1, 32 * KB, 256 * KB, 8 * MB),
    _x86("znver2", 256, 8, 3.6, 51.2, 32 * KB, 512 * KB, 16 * MB),
    _x86("znver3", 256, 8, 3.8, 51.2, 32 * KB, 512 * KB, 32 * MB),
    _x86("znver4", 512, 8, 4.5, 83.2, 32 * KB, 1 * MB, 32 * MB, units=1),
    _x86("znver5", 512, 8, 4.5, 89.6, 48 * KB, 1 * MB, 32 * MB),
    _x86("skylake-avx512", 512, 8, 2.6, 42.7, 32 * KB, 1 * MB, 11 * MB),
    _x86("cascadelake", 512, 8, 2.8, 46.9, 32 * KB, 1 * MB, 16 * MB),
    _x86("icelake-server", 512, 8, 2.9, 51.2, 48 * KB, 1280 * KB, 24 * MB),
    _x86("sapphirerapids", 512, 8, 3.0, 76.8, 48 * KB, 2 * MB, 30 * MB),
    _arm("armv8-a", "generic", 4, *_UNKNOWN, 32 * KB, 128 * KB, 0, "any 64-bit ARM"),
    _arm("rpi3", "cortex-a53", 4, 1.2, 3.6, 32 * KB, 128 * KB, 0, "Raspberry Pi 3"),
    _arm("rpizero2w", "cortex-a53", 4, 1.0, 3.6, 32 * KB, 128 * KB, 0, "Raspberry Pi Zero 2 W"),
    _arm("rpi4", "cortex-a72", 4, 1.5, 12.8, 32 * KB, 256 * KB, 0, "Raspberry Pi 4"),
    _arm("rpi5", "cortex-a76", 4, 2.4, 17.1, 64 * KB, 512 * KB, 2 * MB, "Raspberry Pi 5"),
    _arm("jetson-orin", "cortex-a78ae", 6, 1.5, 68.0, 64 * KB, 256 * KB, 4 * MB,
         "NVIDIA Jetson Orin"),
    _arm("imx8", "cortex-a53", 4, 1.8, 16.0, 32 * KB, 128 * KB, 0, "NXP i.MX 8M"),
    _arm("graviton2", "neoverse-n1", 4, 2.5, 51.2, 64 * KB, 1 * MB, 32 * MB, "AWS Graviton2"),
    _arm("altra", "neoverse-n1", 4, 3.0, 51.2, 64 * KB, 1 * MB, 32 * MB, "Ampere Altra"),
    # Without SVE: its two vectors of 256 bits a cycle are as much as NEON's four of 128 (AWS's
    # guide), and TVM emits NEON for vectors of a fixed length, as ours are, even with SVE.
    _arm("graviton3", "neoverse-v1", 4, 2.6, 76.8, 64 * KB, 1 * MB, 32 * MB,
         "AWS Graviton3", "-sve"),
    _arm("apple-m1", "apple-m1", 4, 3.2, 68.2, 128 * KB, 3 * MB, 8 * MB,
         "Apple M1 and later, Linux"),
    Processor(
        "riscv64", "riscv64-unknown-linux-gnu", "generic-rv64",
        ("+m", "+a", "+f", "+d", "+c", "+v"), 4, 128, 32, 32 * KB, 256 * KB, 0,
        about="experimental: RISC-V with vectors of 128 bits or more",
    ),
)  # fmt: skip
