"""Prints the rates of the convolution kernels on ResNet-50's and MobileNet's shapes.

    python benchmarks/conv_kernels.py                      # one thread, this machine
    python benchmarks/conv_kernels.py --threads 2 --json conv_kernels.json
    python benchmarks/conv_kernels.py --target haswell     # the AVX2 code on an AVX-512 machine

Every layer runs with several sets of weights in turn, because one set would stay in the cache,
which it does not in a network. The activations are the same in all runs, as in a network the layer
before has just written them. GF/s counts two operations per non-zero weight and output pixel. The
shares are of two peaks of the cores in use, which are measured at the start for the target's vector
width: the peak of multiply-adds, and the peak of multiply-adds that each read a vector from the L1
cache. The second one is the most that unstructured non-zeros allow; it does not bind a dense
kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tvm
from numpy.typing import NDArray

from tvm_sparse.cpu.peak_rates import fma_peak, l1_fma_peak
from tvm_sparse.cpu.profile import CpuProfile, profile
from tvm_sparse.formats.dense import pack_conv2d, pack_linear
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.conv2d import conv2d
from tvm_sparse.schedules.operators.direct_depthwise import depthwise_conv2d
from tvm_sparse.schedules.operators.linear import linear
from tvm_sparse.schedules.operators.sparse_conv2d import sparse_conv2d
from tvm_sparse.schedules.operators.sparse_linear import sparse_linear
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

# Input channels, height and width of the input, output channels, kernel, stride, groups.
FIRST = [(3, 224, 64, 7, 2, 1)]
SPATIAL = [
    *((64, 56, 64, 3, 1, 1), (128, 28, 128, 3, 1, 1), (256, 14, 256, 3, 1, 1)),
    *((512, 7, 512, 3, 1, 1), (128, 56, 128, 3, 2, 1), (256, 28, 256, 3, 2, 1)),
    *((512, 14, 512, 3, 2, 1), (256, 56, 512, 1, 2, 1), (1024, 14, 2048, 1, 2, 1)),
]
POINTWISE = [
    *((64, 56, 256, 1, 1, 1), (256, 56, 64, 1, 1, 1), (128, 28, 512, 1, 1, 1)),
    *((512, 28, 128, 1, 1, 1), (256, 14, 1024, 1, 1, 1), (1024, 14, 256, 1, 1, 1)),
    *((512, 7, 2048, 1, 1, 1), (2048, 7, 512, 1, 1, 1)),
]
DEPTHWISE = [
    *((32, 112, 32, 3, 1, 32), (64, 112, 64, 3, 2, 64), (128, 56, 128, 3, 1, 128)),
    *((256, 28, 256, 3, 1, 256), (512, 14, 512, 3, 1, 512), (1024, 7, 1024, 3, 1, 1024)),
    *((240, 28, 240, 5, 1, 240), (240, 28, 240, 5, 2, 240)),
]
SPARSITIES = (0.95, 0.85)
SETS = 4
EPILOGUE = Epilogue(bias=True, activation="relu")
Arrays = list[NDArray[np.generic]]


@dataclass
class CompiledLayer:
    """A compiled layer, its arguments with every weight, and how long its runs took in seconds."""

    name: str
    sparsity: float
    operations: float
    kernel: Callable[..., None]
    sets: list[list[tvm.runtime.Tensor]]
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default="native", help="see `tvm-sparse targets`")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each line of the table")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file to write everything measured to")
    arguments = parser.parse_args()
    # TVM reads it when its first parallel loop runs.
    os.environ["TVM_NUM_THREADS"] = str(arguments.threads)
    cpu = profile(arguments.target)
    cases = [(sizes, s) for sizes in SPATIAL + POINTWISE for s in (*SPARSITIES, 0.0)]
    cases += [(sizes, 0.0) for sizes in FIRST + DEPTHWISE]
    layers = [build(sizes, sparsity, arguments.batch, cpu) for sizes, sparsity in cases]
    peaks = {"peak": fma_peak(cpu), "l1": l1_fma_peak(cpu)}
    peaks = {name: rate * arguments.threads for name, rate in peaks.items()}
    measure(layers, arguments.seconds)
    lines = [report(layer, peaks) for layer in layers]
    print(
        f"{cpu.name}, {cpu.vector_bits}-bit vectors, {arguments.threads} thread(s), batch "
        f"{arguments.batch}, multiply-add peak {peaks['peak'] / 1e9:.0f} GF/s, with operands from "
        f"L1 {peaks['l1'] / 1e9:.0f} GF/s"
    )
    print(f"{'layer':28}{'zeros':>6}{'min us':>9}{'GF/s':>7}{'of peak':>9}{'of L1 peak':>12}")
    for line in lines:
        print(
            "{layer:28}{sparsity:6.0%}{min_us:9.1f}{gflops:7.1f}{share_of_peak:9.0%}"
            "{share_of_l1:12.0%}".format(**line)
        )
    if arguments.json:
        settings = {"cpu": cpu.name, "vector_bits": cpu.vector_bits, "batch": arguments.batch}
        settings |= {"threads": arguments.threads, "peaks": peaks}
        arguments.json.write_text(json.dumps(settings | {"layers": lines}, indent=1))


def build(sizes: tuple[int, ...], sparsity: float, batch: int, cpu: CpuProfile) -> CompiledLayer:
    """Compile a layer's kernel and fill its tensors."""
    channels, height, outputs, kernel, stride, groups = sizes
    out_height = -(-height // stride)
    problem = Conv2d(
        *(batch, channels, height, height, outputs, (kernel, kernel), (stride, stride)),
        *((kernel // 2,) * 4, (1, 1), groups),
        lanes_in=cpu.image_lanes(height),
        lanes_out=cpu.image_lanes(out_height),
    )
    func, pack = choose(problem, sparsity, cpu)
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    compiled = tvm.compile(module, cpu.to_target())["main"]
    rng = np.random.default_rng(0)
    shape = (outputs, channels // groups, kernel, kernel)
    x = rng.standard_normal((batch * height, channels, problem.lanes_in)).astype("float32")
    y = np.zeros((batch * out_height, outputs, problem.lanes_out), "float32")
    x, bias, y = map(tvm.runtime.tensor, (x, np.zeros(outputs, "float32"), y))
    non_zeros, sets = 0, []
    for _ in range(SETS):
        weight = rng.standard_normal(shape).astype("float32")
        weight[rng.random(shape) < sparsity] = 0
        non_zeros += np.count_nonzero(weight)
        sets.append([x, *map(tvm.runtime.tensor, pack(weight)), bias, y])
    kind = "depthwise " if groups > 1 else ""
    name = f"{kind}{kernel}x{kernel} {channels}>{outputs} @{height}" + f" /{stride}" * (stride > 1)
    operations = 2 * non_zeros / SETS * batch * out_height**2
    return CompiledLayer(name, sparsity, operations, compiled, sets)


def choose(
    problem: Conv2d, sparsity: float, cpu: CpuProfile
) -> tuple[tvm.tirx.PrimFunc, Callable[[NDArray[np.float32]], Arrays]]:
    """Return the kernel of a layer, and the function that packs its weight."""
    n, k, lanes = problem.out_channels, problem.channels, problem.lanes_in
    rows = problem.batch * problem.height
    if problem.groups > 1:
        return depthwise_conv2d(problem, EPILOGUE, cpu), lambda weight: [weight]
    if problem.is_linear and sparsity:
        tiling = SPARSE_LINEAR_FAMILY.default(Layer(Linear(rows, lanes, n, k), 1 - sparsity), cpu)
        func = sparse_linear(rows, lanes, n, k, tiling, EPILOGUE, cpu)
        return func, lambda w: arrays_of(PackedSparse.from_dense(w.reshape(n, k), lanes, tiling))
    if problem.is_linear:
        func = linear(rows, lanes, n, k, EPILOGUE, cpu)
        block = LINEAR_FAMILY.default(Layer(Linear(rows, lanes, n, k)), cpu).channels
        return func, lambda weight: [pack_linear(weight.reshape(n, k), block)]
    if sparsity:
        conv_tiling = SPARSE_CONV2D_FAMILY.default(Layer(problem, 1 - sparsity), cpu)
        func = sparse_conv2d(problem, conv_tiling, EPILOGUE, cpu)
        return func, lambda w: arrays_of(PackedSparse.from_conv2d(w, problem, conv_tiling))
    block = CONV2D_FAMILY.default(Layer(problem), cpu).channels
    return conv2d(problem, EPILOGUE, cpu), lambda weight: [pack_conv2d(weight, 1, block)]


def arrays_of(packed: PackedSparse) -> Arrays:
    """Return the arrays of a packed weight in the order of a kernel's parameters."""
    return [packed.indptr, packed.channels, packed.offsets, packed.values]


def measure(layers: list[CompiledLayer], seconds: float) -> None:
    """Run the layers in turns, so that a change of the machine's state strikes all of them."""
    end = time.perf_counter() + seconds * len(layers)
    while time.perf_counter() < end:
        for layer in layers:
            layer.kernel(*layer.sets[-1])
            start = time.perf_counter()
            for tensors in layer.sets:
                layer.kernel(*tensors)
            layer.seconds.append((time.perf_counter() - start) / len(layer.sets))


def report(layer: CompiledLayer, peaks: dict[str, float]) -> dict[str, float | str]:
    """Return a layer's line of the table; `peaks` in operations a second."""
    best = min(layer.seconds)
    rate = layer.operations / best
    line: dict[str, float | str] = {"layer": layer.name, "sparsity": layer.sparsity}
    line |= {"min_us": best * 1e6, "median_us": float(np.median(layer.seconds)) * 1e6}
    line |= {"gflops": rate / 1e9, "share_of_peak": rate / peaks["peak"]}
    return line | {"share_of_l1": rate / peaks["l1"]}


if __name__ == "__main__":
    main()
