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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from instruction_counts import check_tools, count_instructions
from llvm_mca import CORES, LoopEstimate, estimate, find_llvm_mca, inner_loop
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from tvm_sparse.cli import console
from tvm_sparse.cpu.profile import CpuProfile, profile
from tvm_sparse.errors import TvmSparseError
from tvm_sparse.formats.dense import pack_conv2d, pack_linear
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.conv2d import conv2d
from tvm_sparse.schedules.operators.linear import linear
from tvm_sparse.schedules.operators.sparse_conv2d import sparse_conv2d
from tvm_sparse.schedules.operators.sparse_linear import sparse_linear
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.testing import assembly, conv2d_reference, image_panels, pruned
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

BOARDS = ("rpi3", "rpi4", "rpi5", "graviton2")
COUNTED = "rpi4"
SPARSITIES = (0.95, 0.90, 0.80)
PLAIN = Epilogue()


@dataclass(frozen=True)
class Kernel:
    """A kernel of a layer, ready to be compiled and run.

    Attributes
    ----------
    func : PrimFunc
        The kernel.
    group : int
        Output channels that the inner loop computes, one non-zero each.
    inputs : list of array
        Its arguments but the output.
    shape : tuple of int
        Of the output.
    expected : array
        What the output's first lanes must hold.
    """

    func: PrimFunc
    group: int
    inputs: list[NDArray]
    shape: tuple[int, ...]
    expected: NDArray


@dataclass(frozen=True)
class NetworkLayer:
    """A layer of a network.

    Attributes
    ----------
    name : str
        For people.
    build : callable
        ``build(sparsity, cpu)`` returns its kernel, dense for a sparsity of zero.
    """

    name: str
    build: Callable[[float, CpuProfile], Kernel]


def linear_kernel(n: int, k: int, tokens: int, sparsity: float, cpu: CpuProfile) -> Kernel:
    """Return the kernel of a linear layer with random weights and inputs."""
    rng, lanes = np.random.default_rng(0), cpu.panel_lanes(tokens)
    rows = -(-tokens // lanes)
    x = rng.standard_normal((rows, k, lanes)).astype("float32")
    weight = pruned(rng, (n, k), 1 - sparsity)
    shape, expected = (rows, n, lanes), weight @ x
    layer = Layer(Linear(rows, lanes, n, k), 1 - sparsity)
    if not sparsity:
        func = linear(rows, lanes, n, k, PLAIN, cpu)
        packed_dense = pack_linear(weight, LINEAR_FAMILY.default(layer, cpu).channels)
        return Kernel(func, 1, [x, packed_dense], shape, expected)
    tiling = SPARSE_LINEAR_FAMILY.default(layer, cpu)
    func = sparse_linear(rows, lanes, n, k, tiling, PLAIN, cpu)
    packed = PackedSparse.from_dense(weight, lanes, tiling)
    return Kernel(func, tiling.group, [x, *_arrays(packed)], shape, expected)


def conv_kernel(channels: int, size: int, kernel: int, sparsity: float, cpu: CpuProfile) -> Kernel:
    """Return the kernel of a convolution with random weights and inputs."""
    rng, lanes = np.random.default_rng(0), cpu.image_lanes(size)
    problem = Conv2d(
        batch=1,
        channels=channels,
        height=size,
        width=size,
        out_channels=channels,
        kernel=(kernel, kernel),
        padding=(kernel // 2,) * 4,
        lanes_in=lanes,
        lanes_out=lanes,
    )
    image = rng.standard_normal((1, channels, size, size)).astype("float32")
    weight = pruned(rng, (channels, channels, kernel, kernel), 1 - sparsity)
    x, shape = image_panels(image, lanes), (size, channels, lanes)
    expected = image_panels(conv2d_reference(image, weight, problem), size)
    if not sparsity:
        func = conv2d(problem, PLAIN, cpu)
        packed_dense = pack_conv2d(weight, 1, CONV2D_FAMILY.default(Layer(problem), cpu).channels)
        return Kernel(func, 1, [x, packed_dense], shape, expected)
    tiling = SPARSE_CONV2D_FAMILY.default(Layer(problem, 1 - sparsity), cpu)
    func = sparse_conv2d(problem, tiling, PLAIN, cpu)
    packed = PackedSparse.from_conv2d(weight, problem, tiling)
    return Kernel(func, tiling.group, [x, *_arrays(packed)], shape, expected)


def _arrays(packed: PackedSparse) -> list[NDArray]:
    return [packed.indptr, packed.channels, packed.offsets, packed.values]


LAYERS = (
    NetworkLayer("linear 768 > 768", lambda s, cpu: linear_kernel(768, 768, 32, s, cpu)),
    NetworkLayer("linear 384 > 1536", lambda s, cpu: linear_kernel(1536, 384, 32, s, cpu)),
    NetworkLayer("conv 3x3 64 @ 56", lambda s, cpu: conv_kernel(64, 56, 3, s, cpu)),
    NetworkLayer("conv 3x3 128 @ 28", lambda s, cpu: conv_kernel(128, 28, 3, s, cpu)),
    NetworkLayer("conv 3x3 256 @ 14", lambda s, cpu: conv_kernel(256, 14, 3, s, cpu)),
    NetworkLayer("conv 3x3 256 @ 7", lambda s, cpu: conv_kernel(256, 7, 3, s, cpu)),
)


@dataclass(frozen=True)
class LoopLine:
    """What llvm-mca says of a kernel's inner loop.

    Attributes
    ----------
    layer, board, core : str
        Which kernel, for which profile, on which of `CORES`.
    sparsity : float
        Zero for the dense kernel.
    vectors : float
        Vectors of four values that a non-zero is multiplied with.
    loop : LoopEstimate
        An iteration.
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
        Which layer.
    sparsity : float
        Zero for the dense kernel.
    instructions : int
        Executed.
    dense : int
        Executed by the dense kernel.
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
