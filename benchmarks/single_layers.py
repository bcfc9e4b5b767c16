"""Compares layers that image and text models seldom have with ONNX Runtime, dense and pruned.

    python benchmarks/single_layers.py                      # all layers, about five minutes
    python benchmarks/single_layers.py mlp conv1d --zeros 0 0.9

They are products of one row or a few, convolutions of one axis, and mixtures of experts. Outputs
are compared before times; engines run in turns. The table holds the fastest run and the median of
each engine in milliseconds, and their ratios.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scripts import run_script

from tvm_sparse.bench.comparison import compare
from tvm_sparse.bench.peers import OURS, REFERENCE
from tvm_sparse.testing.models import pruned


def mlp(rows: int, layers: list[tuple[int, int]], density: float) -> onnx.ModelProto:
    """Return products with a bias and ReLU that follow one another."""
    nodes, weights, last = [], {}, "x"
    for i, (k, n) in enumerate(layers):
        weights[f"w{i}"] = _weight((k, n), k, density)
        weights[f"b{i}"] = np.linspace(-0.1, 0.1, n, dtype="float32")
        nodes += [
            helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]),
            helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"]),
        ]
        last = f"r{i}"
    return _model(nodes, (rows, layers[0][0]), last, weights)


def conv1d(channels: int, kernel: int, positions: int, density: float) -> onnx.ModelProto:
    """Return a convolution of one axis with ReLU."""
    weights = {"w": _weight((channels, channels, kernel), channels * kernel, density)}
    pads = [kernel // 2, kernel // 2]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=pads),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    return _model(nodes, (1, channels, positions), "y", weights)


def experts(count: int, inner: int, top: int, tokens: int, density: float) -> onnx.ModelProto:
    """Return a router and its feed-forward networks of 1024 channels."""
    weights = {
        "router": _weight((1024, count), 1024, 1.0),
        "up": _weight((count, inner, 1024), 1024, density),
        "down": _weight((count, 1024, inner), inner, density),
    }
    attributes = {"k": top, "activation_type": "silu", "normalize_routing_weights": 1}
    nodes = [
        helper.make_node("MatMul", ["x", "router"], ["logits"]),
        helper.make_node(
            "MoE", ["x", "logits", "up", "", "down"], ["y"], domain="com.microsoft", **attributes
        ),
    ]
    return _model(nodes, (tokens, 1024), "y", weights)


LAYERS: dict[str, Callable[[float], onnx.ModelProto]] = {
    **{
        f"mlp 4 x 1024, {rows} row(s)": lambda d, rows=rows: mlp(rows, [(1024, 1024)] * 4, d)
        for rows in (1, 2, 4)
    },
    **{
        f"linear 2048 > 5632, {rows} row(s)": lambda d, rows=rows: mlp(rows, [(2048, 5632)], d)
        for rows in (1, 4)
    },
    "linear 2048 > 1000, 1 row(s)": lambda d: mlp(1, [(2048, 1000)], d),
    "conv1d 64 channels, 7 x 7500": lambda d: conv1d(64, 7, 7500, d),
    "conv1d 128 channels, 3 x 1000": lambda d: conv1d(128, 3, 1000, d),
    **{
        f"{count} experts, top {top}, {tokens} token(s)": (
            lambda d, sizes=(count, inner, top, tokens): experts(*sizes, d)
        )
        for count, inner in ((8, 2816), (64, 704))
        for tokens in (1, 16)
        for top in (1, 2, 4)
    },
}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="words of the names of the layers to measure")
    parser.add_argument("--zeros", nargs="+", type=float, default=[0.0, 0.8, 0.9])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of an engine in a round")
    given = parser.parse_args()
    head = f"{'layer':32}{'zeros':>6}{'ours ms':>16}{'ONNX Runtime ms':>18}"
    print(f"{head}  ratio of minima, median of rounds")
    for name, make in LAYERS.items():
        if given.words and not any(word in name for word in given.words):
            continue
        for zeros in given.zeros:
            _measure(name, make(1 - zeros), zeros, given)


def _measure(name: str, model: onnx.ModelProto, zeros: float, given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save(model, path)
        result = compare(
            path,
            engines=(OURS, REFERENCE),
            threads=given.threads,
            rounds=given.rounds,
            seconds=given.seconds,
        )
    ratio = result.ratio(REFERENCE)
    if ratio is None:
        failures = (measured.failure for measured in result.measurements)
        print(f"{name:32}{zeros:6.0%}  {'; '.join(filter(None, failures))}", flush=True)
        return
    times = (
        f"{result[engine].minimum * 1e3:.3f} ({result[engine].median * 1e3:.3f})"
        for engine in (OURS, REFERENCE)
    )
    ours, theirs = times
    line = f"{name:32}{zeros:6.0%}{ours:>16}{theirs:>18}  {ratio.of_minima:.2f}x"
    print(f"{line}, {ratio.median:.2f}x", flush=True)


def _weight(shape: tuple[int, ...], taps: int, density: float) -> np.ndarray:
    """Return a weight that keeps the signal alive."""
    scale = np.float32((2 / (taps * density)) ** 0.5)
    return pruned(np.random.default_rng(0), shape, density) * scale


def _model(
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...],
    output: str,
    weights: dict[str, np.ndarray],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


if __name__ == "__main__":
    run_script(main)
