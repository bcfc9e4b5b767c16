"""Compares LSTM and GRU layers with ONNX Runtime, dense and pruned.

    python benchmarks/recurrent.py                     # all layers, about ten minutes
    python benchmarks/recurrent.py --cells LSTM --hidden 256 --batch 1 --zeros 0 0.9

Every layer has as many inputs as hidden units. Outputs are compared before times; engines run in
turns. The table holds the fastest run of each engine in milliseconds, and their ratio.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scripts import run_script

from tvm_sparse.bench.comparison import compare
from tvm_sparse.bench.peers import OURS, REFERENCE
from tvm_sparse.testing.models import pruned

GATES = {"LSTM": 4, "GRU": 3}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--hidden", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--directions", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    parser.add_argument("--zeros", nargs="+", type=float, default=[0.0, 0.9])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of an engine in a round")
    given = parser.parse_args()
    print(f"{'layer':34}{'zeros':>6}{'ours ms':>10}{'ONNX Runtime ms':>17}{'ratio':>8}", flush=True)
    layers = itertools.product(
        given.cells, given.hidden, given.batch, given.directions, given.zeros
    )
    for cell, hidden, batch, directions, zeros in layers:
        with tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
            path = Path(folder) / f"{cell}.onnx"
            onnx.save(layer(cell, hidden, batch, directions, 1 - zeros, given.steps), path)
            result = compare(
                path,
                engines=(OURS, REFERENCE),
                threads=given.threads,
                rounds=given.rounds,
                seconds=given.seconds,
            )
        name = f"{cell} {hidden}, batch {batch}, {directions} direction(s)"
        ratio = result.ratio(REFERENCE)
        if ratio is None:
            failures = (measured.failure for measured in result.measurements)
            print(f"{name:34}{zeros:6.0%}  {'; '.join(filter(None, failures))}", flush=True)
            continue
        ours, theirs = (result[engine].minimum * 1e3 for engine in (OURS, REFERENCE))
        line = f"{name:34}{zeros:6.0%}{ours:10.3f}{theirs:17.3f}{ratio.of_minima:7.2f}x"
        print(line, flush=True)


def layer(
    cell: str, hidden: int, batch: int, directions: int, density: float, steps: int
) -> onnx.ModelProto:
    """Return a model of one layer; its weights keep the signal alive."""
    rng = np.random.default_rng(0)
    shape = (directions, GATES[cell] * hidden, hidden)
    scale = (density * hidden) ** -0.5
    weights = {name: pruned(rng, shape, density) * np.float32(scale) for name in ("W", "R")}
    weights["B"] = np.zeros((directions, 2 * GATES[cell] * hidden), "float32")
    direction = "bidirectional" if directions == 2 else "forward"
    attributes = {"hidden_size": hidden, "direction": direction}
    if cell == "GRU":
        attributes["linear_before_reset"] = 1
    node = helper.make_node(cell, ["x", *weights], ["y"], cell, **attributes)
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (steps, batch, hidden))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


if __name__ == "__main__":
    run_script(main)
