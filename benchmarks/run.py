"""Prints the README's table: this project and its peers in turns on pruned networks.

    benchmarks/peers.sh                      # once: environments of DeepSparse and OpenVINO
    python benchmarks/run.py                 # every model of the table
    python benchmarks/run.py bert-base-95 --threads 1 --json results.json
    python benchmarks/run.py resnet50-95 resnet50-95:8 --starts 6   # of all engines; batch 1 and 8

Some engines are faster in one process than in the next: with several starts, the fastest run of all
of them counts, and the range of the rounds shows the rest.

Models are built once, with seeded weights, and kept in .cache/models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from scripts import run_script
from sized_models import sized

from tvm_sparse.bench.comparison import compare
from tvm_sparse.bench.peers import OURS, PEERS
from tvm_sparse.bench.results import Comparison
from tvm_sparse.bench.tables import latency_table, readme_table, to_json

TABLE = (
    "bert-base-95",
    "bert-base-90",
    "bert-base-80",
    "bert-base-0",
    "bert-large-95",
    "vit-b-16-90",
    "resnet50-95",
    "mobilenet-v1-90",
    "mobilenet-v2-90",
    "efficientnet-b0-90",
    "yolov5s-85",
)


def main() -> None:
    """Parse the command line, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="*", default=TABLE, metavar="MODEL",
        help="FAMILY-SPARSITY[:BATCH], such as bert-base-95; default: the table's",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="of every engine; default: all usable cores")
    parser.add_argument("--engines", nargs="+", choices=(OURS, *PEERS), default=(OURS, *PEERS))
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "float16", "auto"),
        help="what we compute in; peers use their own choice and float32",
    )  # fmt: skip
    parser.add_argument("--starts", type=int, default=1, help="how often engines are started")
    parser.add_argument("--rounds", type=int, default=7, help="after each start")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a burst in each round")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--json", type=Path, help="file to write everything measured to")
    arguments = parser.parse_args()

    console = Console(stderr=True)
    comparisons: list[Comparison] = []
    for name in arguments.models:
        comparisons.append(_compare(name, arguments, console))
        console.print(latency_table(comparisons[-1]))
    if arguments.json:
        arguments.json.write_text(json.dumps(to_json(comparisons), indent=1))
    print(readme_table(comparisons))


def _compare(name: str, arguments: argparse.Namespace, console: Console) -> Comparison:
    with console.status(f"{name}: building") as status:
        path, shapes = sized(name, arguments.cache)
        starts = [
            compare(
                path, shapes, engines=arguments.engines, threads=arguments.threads,
                rounds=arguments.rounds, seconds=arguments.seconds,
                options={"precision": arguments.precision},
                progress=lambda step: status.update(f"{name}: {step}"),
            )
            for _ in range(arguments.starts)
        ]  # fmt: skip
    return replace(joined(starts), model=name)


def joined(starts: Sequence[Comparison]) -> Comparison:
    """Return the rounds of all starts as one comparison; an engine that failed once has none."""
    results = []
    for same in zip(*(start.measurements for start in starts), strict=True):
        failed = next((m for m in same if m.failure), None)
        rounds = tuple(r for m in same for r in m.rounds)
        results.append(failed or replace(same[-1], rounds=rounds))
    return replace(starts[-1], measurements=tuple(results))


if __name__ == "__main__":
    run_script(main)
