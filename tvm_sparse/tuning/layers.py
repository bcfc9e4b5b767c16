"""The kernels of a layer that are worth a trial, and the libraries that run them."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile, processor
from tvm_sparse.cpu.rates import FMA_PER_CYCLE, LOADS_PER_CYCLE
from tvm_sparse.formats.sparse import SparseConvTiling, SparseLayout, SparseTiling
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.sparsify.pack_dense_weights import dense_layer
from tvm_sparse.passes.sparsify.sparsify_weights import sparse_layer
from tvm_sparse.records.file import Plan
from tvm_sparse.sizes.conv2d import Conv2d, Window
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings import sparse_conv2d
from tvm_sparse.tilings.choice import (
    GROUP_CYCLES,
    L1_SHARE,
    MOST_ROWS,
    DenseTiling,
    fits_registers,
    most_channels,
)
from tvm_sparse.tilings.families import (
    default_kernel,
    dense_kernel,
    from_fields,
    sparse_kernel,
    sparse_or_dense,
)
from tvm_sparse.tilings.layer import Layer, Tiling
from tvm_sparse.tilings.sparse_conv2d import DenseConvTiling, DepthwiseTiling
from tvm_sparse.tuning.devices import Arguments, Build
from tvm_sparse.tuning.libraries import build_module, common_lanes

GROUPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Output channels that a sparse kernel computes side by side."""


@dataclass(frozen=True)
class KernelCandidate:
    """A kernel and what it is expected to cost.

    Attributes
    ----------
    tiling : Tiling
        The kernel.
    seconds : float
        The cost model's prediction, all cores at work.
    """

    tiling: Tiling
    seconds: float


def kernel_candidates(layer: Layer, cpu: CpuProfile, hopeless: float) -> list[KernelCandidate]:
    """Return what to try: the cost model's choice, then the best of every register tile.

    After them the second best of every register tile, and so on. Kernels that are expected to take
    `hopeless` times as long as the best of their kind are left out, and so is that of the sparse
    and the dense kernel which is expected to take so much longer.
    """
    choice = sparse_or_dense(layer, cpu)
    least = min(choice.sparse_cycles, choice.dense_cycles)
    kinds = (
        (sparse_kernel(layer, cpu), _sparse(layer, cpu), choice.sparse_cycles),
        (dense_kernel(layer, cpu), _dense(layer, cpu), choice.dense_cycles),
    )
    ranked, chosen = [], default_kernel(layer, cpu)
    for default, tilings, cycles in kinds:
        if default is not None and (default == chosen or cycles <= hopeless * least):
            # What the register tile changes is less certain than what the kind takes.
            unit = cycles / kernel_cycles(layer, default, cpu)
            unit /= cpu.memory_system.clock_hz * cpu.cores
            found = [
                KernelCandidate(tiling, unit * kernel_cycles(layer, tiling, cpu))
                for tiling in dict.fromkeys((default, *tilings))
            ]
            ranked += _ranked(found, hopeless)
    others = [c for _, c in sorted(ranked, key=lambda pair: pair[0]) if c.tiling != chosen]
    first = [c for _, c in ranked if c.tiling == chosen]
    return [*first, *others]


def _ranked(
    candidates: Sequence[KernelCandidate], hopeless: float
) -> list[tuple[int, KernelCandidate]]:
    """Return the hopeful ones, each with its place among those of the same register tile."""
    default = candidates[0]
    least = min(candidate.seconds for candidate in candidates)
    seen: Counter[object] = Counter()
    ranked = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.seconds):
        if candidate is default or candidate.seconds <= hopeless * least:
            tile = _register_tile(candidate.tiling)
            ranked.append((seen[tile], candidate))
            seen[tile] += 1
    return ranked


def kernel_cycles(layer: Layer, tiling: Tiling, cpu: CpuProfile) -> float:
    """Return the expected cycles of a kernel, summed over cores; to compare kernels of a layer."""
    problem = layer.problem
    if isinstance(problem, Linear):
        width = cpu.vector_width(problem.lanes)
        vectors = problem.lanes // width
        if isinstance(tiling, SparseTiling):
            row_tiles = -(-problem.rows // tiling.rows)
            vectors *= tiling.rows
            k_blocks = -(-problem.k // tiling.k_block)
            groups = -(-problem.n // tiling.group) * k_blocks
            nonzeros = layer.density * problem.n * problem.k
            each = max((2 + vectors) / LOADS_PER_CYCLE, vectors / FMA_PER_CYCLE)
            partial = (k_blocks - 1) * problem.n * vectors * sparse_conv2d.PARTIAL_SUM_CYCLES
            jobs = row_tiles * tiling.chunks
            imbalance = -(-jobs // cpu.cores) * cpu.cores / jobs
            if tiling.chunks == 1 and problem.rows % cpu.cores == 0:
                imbalance = 1.0  # runs of rows need not be whole tiles
            return imbalance * row_tiles * (nonzeros * each + groups * GROUP_CYCLES + partial)
        assert isinstance(tiling, DenseTiling)
        pieces = problem.rows * -(-vectors // tiling.vectors)
        return pieces * _dense_cycles(problem.n, problem.k, tiling.channels, tiling.vectors, cpu)
    window = Window(problem, cpu.vector_width(problem.lanes_out), 1)
    rows = problem.batch * problem.out_height
    if isinstance(tiling, SparseConvTiling):
        return sparse_conv2d.sparse_conv_cycles(problem, layer.density, tiling, cpu)
    if isinstance(tiling, DenseConvTiling):
        taps = problem.channels // problem.groups * math.prod(problem.kernel)
        tiles = rows / tiling.rows * -(-window.vectors // tiling.vectors)
        sources = tiling.vectors * tiling.rows
        return tiles * _dense_cycles(problem.out_channels, taps, tiling.channels, sources, cpu)
    assert isinstance(tiling, DepthwiseTiling)
    loads = window.rows(tiling.rows) / tiling.rows * problem.kernel[1]
    work = max(math.prod(problem.kernel) / FMA_PER_CYCLE, loads / LOADS_PER_CYCLE)
    # Few accumulators leave the latency of a multiply-add, of some four cycles, uncovered.
    work *= max(1.0, 4 * FMA_PER_CYCLE / (tiling.rows * tiling.vectors))
    return rows * problem.channels * window.vectors * work


def _dense_cycles(n: int, k: int, channels: int, sources: int, cpu: CpuProfile) -> float:
    """Return the cycles of all output channels at `sources` vectors of a dense layer."""
    loads = channels if cpu.vector_bits < 512 else 0  # AVX-512 multiplies by a value in memory
    work = max(channels * sources / FMA_PER_CYCLE, (sources + loads) / LOADS_PER_CYCLE, 4)
    return -(-n // channels) * k * (work + 1)


def _register_tile(tiling: Tiling) -> tuple[object, ...]:
    if isinstance(tiling, SparseConvTiling):
        return (tiling.group, tiling.rows, tiling.vectors, tiling.shifted)
    if isinstance(tiling, SparseTiling):
        return (tiling.group, tiling.rows)
    if isinstance(tiling, DenseTiling):
        return (tiling.channels, tiling.vectors)
    if isinstance(tiling, DenseConvTiling):
        return (tiling.channels, tiling.vectors, tiling.rows)
    return (tiling.rows, tiling.vectors)


def _sparse(layer: Layer, cpu: CpuProfile) -> Iterator[Tiling]:
    problem, default = layer.problem, sparse_kernel(layer, cpu)
    if default is None:
        return
    if isinstance(problem, Linear):
        yield from _sparse_linear(problem, default, cpu)
        return
    for tiling in sparse_conv2d.sparse_tilings(problem, cpu):
        for group in {tiling.group, max(tiling.group // 2, 1), tiling.group * 2}:
            if _accumulates(group * tiling.rows * tiling.vectors, cpu):
                yield replace(tiling, group=group)
        if tiling.k_block > 1:
            yield replace(tiling, k_block=-(-tiling.k_block // 2))


def _sparse_linear(problem: Linear, default: SparseTiling, cpu: CpuProfile) -> Iterator[Tiling]:
    vectors = problem.lanes // cpu.vector_width(problem.lanes)
    for rows in range(1, min(problem.rows, MOST_ROWS) + 1):
        reach = int(L1_SHARE * cpu.l1_bytes) // 4 // rows // problem.lanes
        depths = {-(-problem.k // -(-problem.k // max(min(d, problem.k), 1)))
                  for d in (reach // 2, reach, 2 * reach)}  # fmt: skip
        for group, depth, chunks in itertools.product(GROUPS, depths, {1, cpu.cores}):
            if problem.n % chunks or not _accumulates(group * rows * vectors, cpu):
                continue
            tiling = replace(default, group=group, k_block=depth, chunks=chunks, rows=rows)
            try:
                SparseLayout.linear(problem.n, problem.k, problem.lanes, tiling)
            except ValueError:  # out of reach of the offsets
                continue
            yield tiling


def _accumulates(accumulators: int, cpu: CpuProfile) -> bool:
    """Return whether so many hide the latency of a multiply-add, and are not too many to keep."""
    return cpu.vector_registers // 8 <= accumulators <= cpu.vector_registers - 2


def _dense(layer: Layer, cpu: CpuProfile) -> Iterator[Tiling]:
    problem, default = layer.problem, dense_kernel(layer, cpu)
    yield default
    if isinstance(problem, Linear):
        for vectors in (1, 2, 3, 4):
            most = min(most_channels(vectors, cpu), problem.n)
            for channels in range(most, most // 2, -1):
                yield DenseTiling(channels, vectors)
    elif isinstance(default, DenseConvTiling):
        for vectors, rows, channels in itertools.product((1, 2, 3, 4), (1, 2, 3, 4), range(4, 31)):
            if fits_registers(channels, vectors * rows, cpu) and rows <= problem.out_height:
                sizes = {"vectors": vectors, "rows": rows, "channels": channels}
                yield replace(default, **sizes, row_block=_whole(default.row_block, rows))
    elif isinstance(default, DepthwiseTiling):
        for vectors, rows in itertools.product((1, 2, 3, 4), range(1, MOST_ROWS + 1)):
            if 2 * vectors * rows <= cpu.vector_registers + 4 and rows <= problem.out_height:
                block = _whole(default.row_block, rows)
                tiling = replace(default, vectors=vectors, rows=rows, row_block=block)
                for share in (1, 2, 4):
                    yield replace(tiling, channels=-(-tiling.channels // share))


def _whole(row_block: int, rows: int) -> int:
    """Return about `row_block` rows in whole tiles."""
    return -(-row_block // rows) * rows


@dataclass(frozen=True)
class LayerKernel:
    """A layer by itself, whose weight is in a file.

    Attributes
    ----------
    layer : Layer
        Its sizes.
    folder : Path
        Where the weight is, ``weight.npy``.
    target : str
        Name of the CPU profile.
    threads : int
        Threads of the kernels.
    """

    layer: Layer
    folder: Path
    target: str
    threads: int

    @staticmethod
    def write(
        layer: Layer, weight: NDArray[np.float32], folder: Path, target: str, threads: int
    ) -> LayerKernel:
        """Write the weight, `(n, k)` or that of a convolution, to a folder."""
        np.save(folder / "weight.npy", weight)
        return LayerKernel(layer, folder, target, threads)

    def build(self, plan: Plan) -> Build:
        """Tell how the library of a kernel is built."""
        problem = self.layer.problem
        arguments = {
            "weight": str(self.folder / "weight.npy"),
            "problem": vars(problem),
            "is_linear": isinstance(problem, Linear),
            "plan": dict(plan),
            "target": self.target,
            "threads": self.threads,
        }
        return Build(f"{__name__}:build_layer", arguments)

    def arguments(self) -> Arguments:
        """Write what the kernels are called with: random panels."""
        shape, lanes = _panels(self.layer.problem)
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        path = self.folder / "arguments.npz"
        np.savez(path, x)
        cpu = processor(self.target, self.threads)
        problem = self.layer.problem
        if isinstance(problem, Conv2d):
            return Arguments(path, (problem.out_width,))
        return Arguments(path, (common_lanes(lanes, cpu),))


def _panels(problem: Linear | Conv2d) -> tuple[tuple[int, int, int], int]:
    """Return the shape of a layer's input, and the lanes of its output."""
    if isinstance(problem, Linear):
        return (problem.rows, problem.k, problem.lanes), problem.lanes
    shape = problem.batch * problem.height, problem.channels, problem.lanes_in
    return shape, problem.lanes_out


def build_layer(
    library: Path,
    weight: str,
    problem: dict[str, object],
    is_linear: bool,
    plan: Plan,
    target: str,
    threads: int,
) -> None:
    """Build a layer with bias as the function ``main`` of a library for the virtual machine."""
    cpu = processor(target, threads)
    tiling = from_fields(plan)
    assert tiling is not None
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in problem.items()}
    sizes: Linear | Conv2d = (Linear if is_linear else Conv2d)(**fields)  # type: ignore[arg-type]
    array = _read(weight)
    x = relax.Var("x", relax.TensorType(_panels(sizes)[0], "float32"))
    if isinstance(tiling, SparseTiling):
        call = sparse_layer(x, array, sizes, tiling)
    else:
        call = dense_layer(x, array, sizes, tiling, cpu)
    bias = relax.const(np.zeros(array.shape[0], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(operators.with_epilogue(call, bias=bias))
        builder.emit_func_output(result)
    build_module(builder.get(), library, cpu)


@functools.lru_cache(maxsize=1)
def _read(path: str) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = np.load(path)
    return weight
