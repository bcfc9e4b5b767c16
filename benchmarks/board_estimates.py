"""Estimates, without a board, how fast the kernels would be on ARM cores.

    python benchmarks/board_estimates.py

No number here was measured on ARM. Two estimates, one after the other:

- The inner loop of every kernel, simulated by llvm-mca with LLVM's model of the core, under the
  assumption that all loads hit L1. The share is of the bound that multiply-adds alone set.
- The instructions that one call executes under qemu, of the sparse kernels against the dense one.

It needs llvm-mca of LLVM 16 or newer, qemu-user-static, and gcc for aarch64.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from board_layers import LAYERS, NetworkLayer
from instruction_counts import check_tools, count_instructions
from llvm_mca import CORES, LoopEstimate, estimate, find_llvm_mca, inner_loop

from tvm_sparse.cli import console
from tvm_sparse.cpu.profile import profile
from tvm_sparse.errors import TvmSparseError
from tvm_sparse.testing.kernels import assembly

BOARDS = ("rpi3", "rpi4", "rpi5", "graviton2")
COUNTED = "rpi4"
SPARSITIES = (0.95, 0.90, 0.80)


@dataclass(frozen=True)
class LoopLine:
    """The simulation of a kernel's inner loop by llvm-mca.

    Attributes
    ----------
    layer, board, core : str
        The layer, the CPU profile that its kernel is for, and the core of `CORES` that runs it.
    sparsity : float
        Share of zeros; zero for the dense kernel.
    vectors : float
        Vectors of four values that a non-zero is multiplied with.
    loop : LoopEstimate
        The estimate of an iteration.
    """

    layer: str
    board: str
    core: str
    sparsity: float
    vectors: float
    loop: LoopEstimate

    @property
    def cycles_per_nonzero(self) -> float:
        """Cycles of a non-zero and all its vectors."""
        return self.loop.cycles / self.loop.multiply_adds * self.vectors


def loop_lines(
    layers: Sequence[NetworkLayer], boards: Sequence[str], sparsities: Sequence[float] = (0.9, 0.0)
) -> Iterator[LoopLine]:
    """Simulate the inner loops of the layers, which hardly depend on how many zeros there are."""
    for board in boards:
        cpu = replace(profile(board), cores=1)
        for layer in layers:
            for sparsity in sparsities:
                kernel = layer.build(sparsity, cpu)
                loop = inner_loop(assembly(kernel.func, cpu))
                sums = {line.split()[1] for line in loop if line.startswith("fmla")}
                vectors = len(sums) / kernel.group
                result = estimate(loop, cpu.mcpu)
                yield LoopLine(layer.name, board, cpu.mcpu, sparsity, vectors, result)


@dataclass(frozen=True)
class CountLine:
    """Instructions that one call of a kernel executes on one core.

    Attributes
    ----------
    layer : str
        Name of the layer.
    sparsity : float
        Share of zeros; zero for the dense kernel.
    instructions : int
        Instructions that the kernel executes.
    dense : int
        Instructions that the dense kernel executes.
    """

    layer: str
    sparsity: float
    instructions: int
    dense: int


def count_lines(layers: Sequence[NetworkLayer], sparsities: Sequence[float]) -> Iterator[CountLine]:
    """Count instructions of the layers, sparse and dense, each checked for its outputs."""
    cpu = replace(profile(COUNTED), cores=1)
    for layer in layers:
        dense = 0
        for sparsity in (0.0, *sparsities):
            kernel = layer.build(sparsity, cpu)
            count, output = count_instructions(kernel.func, kernel.inputs, kernel.shape, cpu)
            seen = output[..., : kernel.expected.shape[-1]]
            np.testing.assert_allclose(seen, kernel.expected, atol=1e-3, err_msg=layer.name)
            dense = dense or count
            yield CountLine(layer.name, sparsity, count, dense)


def loop_table(lines: Sequence[LoopLine]) -> str:
    """Return a Markdown table, a layer a row, a core a column."""
    cores = list(dict.fromkeys(line.core for line in lines))
    rows = [["cycles a non-zero and vector (of the multiply-add bound)", *cores]]
    rows.append(["---"] + ["---:"] * len(cores))
    for key in dict.fromkeys((line.layer, line.sparsity) for line in lines):
        found = {line.core: line for line in lines if (line.layer, line.sparsity) == key}
        title = f"{key[0]}, " + (f"{key[1]:.0%} zeros" if key[1] else "dense")
        rows.append([title, *(_loop_cell(found[core]) for core in cores)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _loop_cell(line: LoopLine) -> str:
    loop = line.loop
    # The simulation of a core that works in order is far too slow: only its units are certain.
    in_order = CORES[line.core].in_order
    cycles = loop.resource_cycles if in_order else loop.cycles
    least = "≥ " if in_order else ""
    most = "≤ " if in_order else ""
    return f"{least}{cycles / loop.multiply_adds:.2f} ({most}{loop.fma_cycles / cycles:.0%})"


def count_table(lines: Sequence[CountLine]) -> str:
    """Return a Markdown table, a layer a row, a sparsity a column."""
    sparsities = list(dict.fromkeys(line.sparsity for line in lines if line.sparsity))
    rows = [["executed instructions", "dense", *(f"{s:.0%} zeros" for s in sparsities)]]
    rows.append(["---"] + ["---:"] * (len(sparsities) + 1))
    for layer in dict.fromkeys(line.layer for line in lines):
        found = {line.sparsity: line for line in lines if line.layer == layer}
        dense = found.pop(0.0).instructions
        cells = [
            f"{line.instructions / 1e6:.2f} M ({dense / line.instructions:.1f}x fewer)"
            for line in found.values()
        ]
        rows.append([layer, f"{dense / 1e6:.1f} M", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    """Parse the command line, estimate, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write all estimates to")
    arguments = parser.parse_args()
    try:
        mca = find_llvm_mca()
        check_tools()
        with console.progress("simulating inner loops") as update:
            loops = list(loop_lines(LAYERS, BOARDS))
            update("counting instructions")
            counts = list(count_lines(LAYERS, SPARSITIES))
    except TvmSparseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("Estimates: nothing here was measured on ARM.\n")
    print(f"Inner loops, simulated by {mca} as if all data were in the L1 cache:\n")
    print(loop_table(loops))
    print(f"\nInstructions of one call on one core, counted by qemu; code for {COUNTED}:\n")
    print(count_table(counts))
    if arguments.json:
        record = {"loops": [asdict(x) for x in loops], "counts": [asdict(x) for x in counts]}
        arguments.json.write_text(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
