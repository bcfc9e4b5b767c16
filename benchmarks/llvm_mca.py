"""How fast an ARM core would run a kernel's inner loop, from its assembly and LLVM's core models.

An estimate without a board: `inner_loop` finds the loop, ``llvm-mca`` simulates it under the
assumption that all loads hit the L1 cache and all branches are foreseen.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_sparse.errors import ToolError

LEAST_LLVM = 16
"""The first version of LLVM with a model of the Neoverse N1."""

ITERATIONS = 200


@dataclass(frozen=True)
class Core:
    """What a simulation of a core needs.

    Attributes
    ----------
    model : str
        LLVM's name of the core whose model is used.
    decode : int
        Instructions decoded a cycle, from Arm's software optimization guides. LLVM's models count
        micro-operations, of which these cores start more.
    in_order : bool
        Whether the core starts instructions in program order. LLVM then holds every instruction
        until all older ones have written their results back, which is slower than such cores are.
    """

    model: str
    decode: int
    in_order: bool = False


CORES = {
    # LLVM counts a load of 128 bits as one cycle; the core takes two (ncnn's developer guide,
    # "arm-a53-a55-dual-issue").
    "cortex-a53": Core("cortex-a53", 2, in_order=True),
    # LLVM describes the A72 by the model of the A57, its predecessor, and so the A76. The Neoverse
    # N1 is the sibling of that: the same pipelines with other caches (Arm Neoverse N1 Software
    # Optimization Guide).
    "cortex-a72": Core("cortex-a72", 3),
    "cortex-a76": Core("neoverse-n1", 4),
    "neoverse-n1": Core("neoverse-n1", 4),
}


@dataclass(frozen=True)
class LoopEstimate:
    """One iteration of a loop on one core.

    Attributes
    ----------
    instructions, multiply_adds : int
        Instructions, and those that multiply and add vectors of four values.
    fma_cycles : float
        Cycles that the multiply-adds alone would take: the bound.
    resource_cycles : float
        Cycles that the busiest unit or the decoder takes.
    cycles : float
        Cycles of the simulation, latencies included; `resource_cycles` at least.
    """

    instructions: int
    multiply_adds: int
    fma_cycles: float
    resource_cycles: float
    cycles: float

    @property
    def share(self) -> float:
        """Share of the multiply-add bound that the simulation reaches."""
        return self.fma_cycles / self.cycles


def inner_loop(assembly: str, instruction: str = "fmla") -> list[str]:
    """Return the innermost loop that holds most of an instruction, from its label on.

    Parameters
    ----------
    assembly : str
        AArch64 assembly of one or several functions.
    instruction : str
        The instruction's mnemonic.

    Returns
    -------
    list of str
        Instructions, without labels, directives and comments.

    Raises
    ------
    ValueError
        If no loop has the instruction.
    """
    lines = [line.split("//")[0].strip() for line in assembly.splitlines()]
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for i, line in enumerate(lines):
        if label := re.fullmatch(r"([\w.$]+):", line):
            labels[label[1]] = i
        # A branch back to a label of the same function; calls (bl) are none.
        elif (jump := re.match(r"(?:b|b\.\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?([\w.$]+)$", line)) and (
            start := labels.get(jump[1])
        ) is not None:
            loops.append((start, i))
    innermost = [
        (start, end)
        for start, end in loops
        if not any(start < other and last < end for other, last in loops)
    ]
    bodies = [_instructions(lines[start : end + 1]) for start, end in innermost]

    def count(body: list[str]) -> int:
        return sum(line.split()[0] == instruction for line in body)

    best = max(bodies, key=count, default=[])
    if not count(best):
        raise ValueError(f"no loop with {instruction}")
    return best


def _instructions(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line and not line.startswith(".") and line[-1] != ":"]


def estimate(loop: Sequence[str], core: str, instruction: str = "fmla") -> LoopEstimate:
    """Simulate a loop on a core.

    Parameters
    ----------
    loop : sequence of str
        AArch64 instructions, as `inner_loop` returns them.
    core : str
        One of `CORES`.
    instruction : str
        The mnemonic of the multiply-adds, such as ``sdot`` for those of bytes.

    Raises
    ------
    ToolError
        If ``llvm-mca`` is missing, too old, or does not understand the loop.
    """
    model = CORES[core]
    summary, costs = _simulate(tuple(loop), model.model)
    fma = [cost for line, cost in zip(loop, costs, strict=True) if line.split()[0] == instruction]
    resources = max(summary["BlockRThroughput"], len(loop) / model.decode)
    cycles = summary["TotalCycles"] / summary["Iterations"]
    return LoopEstimate(len(loop), len(fma), sum(fma), resources, max(cycles, resources))


def _simulate(loop: tuple[str, ...], model: str) -> tuple[dict[str, float], list[float]]:
    """Return ``llvm-mca``'s summary, and every instruction's cycles between two of its kind."""
    command = [
        find_llvm_mca(), "-mtriple=aarch64-linux-gnu", f"-mcpu={model}",
        f"-iterations={ITERATIONS}", "-json", "-",
    ]  # fmt: skip
    # Branches go to a label of their own: the loop is simulated as if it went on for ever.
    text = "\n".join(["loop:", *(re.sub(r"[\w.$]*BB[\w.$]+$", "loop", line) for line in loop), ""])
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    if result.returncode:
        raise ToolError(f"llvm-mca failed: {result.stderr.strip().splitlines()[0]}")
    (region,) = json.loads(result.stdout)["CodeRegions"]
    costs = [info["RThroughput"] for info in region["InstructionInfoView"]["InstructionList"]]
    return region["SummaryView"], costs


@functools.cache
def find_llvm_mca() -> str:
    """Return the path of the newest ``llvm-mca`` on the search path.

    Raises
    ------
    ToolError
        If there is none that is new enough.
    """
    names = ["llvm-mca", *(f"llvm-mca-{version}" for version in range(LEAST_LLVM, 40))]
    found = [path for name in names if (path := shutil.which(name))]
    versions = {path: _version(path) for path in found}
    newest = max(versions, key=lambda path: versions[path], default=None)
    install = "install LLVM's tools (`apt-get install llvm-19`, or any newer)"
    if newest is None:
        raise ToolError(f"llvm-mca is not on the search path; {install}")
    if versions[newest] < LEAST_LLVM:
        raise ToolError(f"{newest} is of LLVM {versions[newest]}, too old; {install}")
    return newest


def _version(path: str) -> int:
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"LLVM version (\d+)", text)
    return int(found[1]) if found else 0
