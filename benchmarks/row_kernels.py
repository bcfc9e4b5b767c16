"""Compares products of a few rows and weights of 4 bits from memory with ONNX Runtime.

    python benchmarks/row_kernels.py                            # all cases, about half an hour
    python benchmarks/row_kernels.py dense 2:4 --rows 1 4 --threads 2

A model has as many layers with weights of their own as make 100 MB, so that no cache holds them.
Both engines run the same file of MatMulNBits with ``accuracy_level`` 4, in turns; of a case without
zeros and one row, ONNX Runtime also runs the same layers in float32. The table holds the fastest
run and the median, in microseconds a layer, what our packed weight has, and the rate at which it is
read beside that of a loop that only reads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scripts import run_script

import tvm_sparse
from tvm_sparse.bench.comparison import compare
from tvm_sparse.bench.peers import OURS, REFERENCE
from tvm_sparse.cpu.probe import Probe
from tvm_sparse.cpu.profile import native
from tvm_sparse.decoders import QuantizedRows, quantize_rows
from tvm_sparse.testing.models import pruned

MEMORY = 100e6
"""Bytes of the weights of all layers, as dense codes of 4 bits."""

CASES: dict[str, tuple[int, int] | float] = {
    "dense": 0.0,
    "2:4": (2, 4),
    "4:16": (4, 16),
    "50 %": 0.5,
    "60 %": 0.6,
    "70 %": 0.7,
    "80 %": 0.8,
    "90 %": 0.9,
}
"""The zeros of a weight: their share, or how many of so many neighbours stay."""


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES).replace('%', '%%')}")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--blocks", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--shape", nargs=2, type=int, default=[5632, 2048], metavar=("N", "K"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of an engine in a round")
    given = parser.parse_args()
    print("case, block, rows, threads: ours; ONNX Runtime (fastest and median, us a layer)")
    for threads in given.threads:
        read = Probe(native(), 1 << 29).rate(2**29 / threads, threads, copies=False)
        print(f"{threads} thread(s) read {read / 1e9:.1f} GB/s", flush=True)
        for name in given.cases or CASES:
            for block in given.blocks:
                for rows in given.rows:
                    _measure(name, block, rows, threads, given)


def _measure(name: str, block: int, rows: int, threads: int, given: argparse.Namespace) -> None:
    n, k = given.shape
    weight = quantize_rows(_weight(n, k, CASES[name]), block)
    copies = max(int(MEMORY * 2 / (n * k)), 2)
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        path, library = Path(folder) / "layers.onnx", Path(folder) / "layers.so"
        onnx.save(_few_bits(weight, rows, copies), path)
        engine = tvm_sparse.compile(path, threads=threads)
        engine.save(library)
        layer = engine.report.layers[0]
        result = compare(
            path,
            engines=(OURS, REFERENCE),
            library=library,
            threads=threads,
            rounds=given.rounds,
            seconds=given.seconds,
            tolerance=0.01,
        )
        floats = ""
        if rows == 1 and name == "dense" and block == given.blocks[0]:
            onnx.save(_floats(weight, rows, copies), path)
            alone = compare(path, engines=(REFERENCE,), threads=threads, rounds=given.rounds)
            floats = f", in float32 {alone[REFERENCE].minimum / copies * 1e6:.0f}"
    bits = float(layer.reason.split(": ")[1].split()[0])
    ours, theirs = (
        f"{result[e].minimum / copies * 1e6:.0f} ({result[e].median / copies * 1e6:.0f})"
        for e in (OURS, REFERENCE)
    )
    rate = n * k * bits / 8 * copies / result[OURS].minimum / 1e9
    print(
        f"{name}, {block}, {rows}, {threads}: {ours} {layer.kernel} {bits} bits {rate:.1f} GB/s; "
        f"{theirs}{floats}",
        flush=True,
    )


def _weight(n: int, k: int, zeros: tuple[int, int] | float) -> np.ndarray:
    """Return a weight whose smallest values are zero, of each row or of neighbours."""
    rng, scale = np.random.default_rng(0), np.float32(k**-0.5)
    if isinstance(zeros, float):
        return pruned(rng, (n, k), 1 - zeros) * scale
    keep, of = zeros
    weight = rng.standard_normal((n, k // of, of), dtype="float32")
    order = np.abs(weight).argsort(2).argsort(2)
    return np.where(order >= of - keep, weight, 0).reshape(n, k) * scale


def _few_bits(weight: QuantizedRows, rows: int, copies: int) -> onnx.ModelProto:
    """Return a model of layers whose weights differ by the order of their rows."""
    n, k = weight.shape
    sizes = {"K": k, "N": n, "bits": 4, "block_size": weight.block, "accuracy_level": 4}
    tensors, nodes = {}, []
    for i in range(copies):
        turned = weight.take(np.roll(np.arange(n), i))
        tensors |= {f"w{i}": turned.codes, f"s{i}": turned.scales.reshape(-1)}
        names = ["x", f"w{i}", f"s{i}"]
        nodes.append(
            helper.make_node("MatMulNBits", names, [f"y{i}"], domain="com.microsoft", **sizes)
        )
    return _model(nodes, tensors, (rows, k), n)


def _floats(weight: QuantizedRows, rows: int, copies: int) -> onnx.ModelProto:
    n, k = weight.shape
    dense = weight.dense().T
    tensors = {f"w{i}": np.roll(dense, i, axis=1) for i in range(copies)}
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(copies)]
    return _model(nodes, tensors, (rows, k), n)


def _model(
    nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], shape: tuple[int, int], n: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [shape[0], n])
            for node in nodes
        ],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


if __name__ == "__main__":
    run_script(main)
