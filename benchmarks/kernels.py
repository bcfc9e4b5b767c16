"""Prints the rates of the linear kernels on BERT-base's shapes, 128 tokens.

    python benchmarks/kernels.py                      # one thread, this machine
    python benchmarks/kernels.py --threads 2 --json kernels.json
    python benchmarks/kernels.py --target haswell     # the AVX2 code on an AVX-512 machine

Every line is a chain of layers with distinct weights, as in a network: one layer repeated would
find its weights in the cache. GF/s counts two operations per non-zero weight and token. The shares
are of two peaks of the cores in use, which are measured at the start for the target's vector width:
the peak of multiply-adds, and the peak of multiply-adds that each read a vector from the L1 cache.
The second one is the most that unstructured non-zeros allow; it does not bind a dense kernel.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tvm
from numpy.typing import NDArray

from tvm_sparse.cpu.peak_rates import fma_peak, l1_fma_peak
from tvm_sparse.cpu.profile import CpuProfile, profile
from tvm_sparse.formats.dense import pack_linear
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.linear import linear
from tvm_sparse.schedules.operators.sparse_linear import sparse_linear
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

CHAINS = {
    "12 x (768 > 768)": [(768, 768)] * 12,
    "4 x (768 > 3072 > 768)": [(3072, 768), (768, 3072)] * 4,
}
SPARSITIES = (0.95, 0.90, 0.80, 0.0)
TOKENS = 128
CALLS_PER_TURN = 3


@dataclass
class Chain:
    """A chain of compiled layers, and how long its runs took, in seconds."""

    name: str
    sparsity: float
    operations: int
    run: Callable[[], None]
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default="native", help="see `tvm-sparse targets`")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each line of the table")
    parser.add_argument("--lanes", type=int, help="default: what the compiler takes")
    parser.add_argument("--json", type=Path, help="file to write everything measured to")
    arguments = parser.parse_args()
    # TVM reads it when its first parallel loop runs.
    os.environ["TVM_NUM_THREADS"] = str(arguments.threads)
    cpu = dataclasses.replace(profile(arguments.target), cores=arguments.threads)
    lanes = arguments.lanes or cpu.panel_lanes(TOKENS)
    peaks = {"fma": fma_peak(cpu) * arguments.threads, "l1": l1_fma_peak(cpu) * arguments.threads}
    chains = [build(name, s, lanes, cpu) for name in CHAINS for s in SPARSITIES]
    measure(chains, arguments.seconds)
    lines = [report(chain, peaks) for chain in chains]
    print(
        f"{cpu.name}, {cpu.vector_bits}-bit vectors, {arguments.threads} thread(s), {lanes} lanes, "
        f"multiply-add peak {peaks['fma'] / 1e9:.0f} GF/s, {peaks['l1'] / 1e9:.0f} from L1"
    )
    print(
        f"{'chain':24}{'zeros':>6}{'min ms':>9}{'GF/s':>7}{'of FMA':>8}{'of L1':>7}"
        f"{'median ms':>11}{'GF/s':>7}"
    )
    for line in lines:
        print(
            "{chain:24}{sparsity:6.0%}{min_ms:9.3f}{min_gflops:7.1f}{min_fma_share:8.0%}"
            "{min_l1_share:7.0%}{median_ms:11.3f}{median_gflops:7.1f}".format(**line)
        )
    if arguments.json:
        settings = {"cpu": cpu.name, "vector_bits": cpu.vector_bits, "lanes": lanes}
        settings |= {"threads": arguments.threads, "tokens": TOKENS, "peak_flops": peaks}
        arguments.json.write_text(json.dumps(settings | {"chains": lines}, indent=1))


def build(name: str, sparsity: float, lanes: int, cpu: CpuProfile) -> Chain:
    """Pack a chain's weights and compile one kernel per shape."""
    rng = np.random.default_rng(0)
    rows = -(-TOKENS // lanes)
    kernels = {}
    for n, k in set(CHAINS[name]):
        bias = Epilogue(bias=True)
        if sparsity:
            tiling = SPARSE_LINEAR_FAMILY.default(Layer(Linear(rows, lanes, n, k)), cpu)
            func = sparse_linear(rows, lanes, n, k, tiling, bias, cpu)
        else:
            func = linear(rows, lanes, n, k, bias, cpu)
        module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
        kernels[n, k] = tvm.compile(module, cpu.to_target())["main"]

    calls, non_zeros = [], 0
    x = tvm.runtime.tensor(rng.standard_normal((rows, 768, lanes)).astype("float32"))
    for n, k in CHAINS[name]:
        weight = rng.normal(0, (k * (1 - sparsity)) ** -0.5, (n, k)).astype("float32")
        weight[rng.random((n, k)) < sparsity] = 0
        non_zeros += np.count_nonzero(weight)
        arrays = [*pack(weight, sparsity, rows, lanes, cpu), np.zeros(n, "float32")]
        y = tvm.runtime.tensor(np.zeros((rows, n, lanes), "float32"))
        calls.append((kernels[n, k], (x, *map(tvm.runtime.tensor, arrays), y)))
        x = y

    def run() -> None:
        for kernel, tensors in calls:
            kernel(*tensors)

    return Chain(name, sparsity, 2 * TOKENS * int(non_zeros), run)


def pack(
    weight: NDArray[np.float32], sparsity: float, rows: int, lanes: int, cpu: CpuProfile
) -> list[NDArray[np.generic]]:
    """Return the arrays that the weight's kernel reads."""
    layer = Layer(Linear(rows, lanes, *weight.shape))
    if not sparsity:
        return [pack_linear(weight, LINEAR_FAMILY.default(layer, cpu).channels)]
    tiling = SPARSE_LINEAR_FAMILY.default(layer, cpu)
    packed = PackedSparse.from_dense(weight, lanes, tiling)
    return [packed.indptr, packed.channels, packed.offsets, packed.values]


def measure(chains: list[Chain], seconds: float) -> None:
    """Run the chains in turns, so that a change of the machine's state strikes all of them."""
    for chain in chains:
        chain.run()
    end = time.perf_counter() + seconds * len(chains)
    while time.perf_counter() < end:
        for chain in chains:
            for _ in range(CALLS_PER_TURN):
                start = time.perf_counter()
                chain.run()
                chain.seconds.append(time.perf_counter() - start)


def report(chain: Chain, peaks: Mapping[str, float]) -> dict[str, float | str]:
    """Return a chain's line of the table; `peaks` in operations a second."""
    line: dict[str, float | str] = {"chain": chain.name, "sparsity": chain.sparsity}
    times = {"min": min(chain.seconds), "median": float(np.median(chain.seconds))}
    for statistic, duration in times.items():
        rate = chain.operations / duration
        line[f"{statistic}_ms"] = duration * 1e3
        line[f"{statistic}_gflops"] = rate / 1e9
        for bound, peak in peaks.items():
            line[f"{statistic}_{bound}_share"] = rate / peak
    return line


if __name__ == "__main__":
    main()
