"""``tvm-sparse prune``: sets a model's smallest weights to zero."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from tvm_sparse.cli import arguments, limits


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(
        verbs, "prune", "sets a model's smallest weights to zero, without training", run
    )
    command.add_argument(
        "model", type=Path, metavar="MODEL", help="ONNX file, GGUF file, or folder of Hugging Face"
    )
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT.onnx", help="model to write"
    )
    command.add_argument(
        "--sparsity", type=float, metavar="0.9", help="share of zeros; 2:4 and its like tell it"
    )
    command.add_argument(
        "--scope", default="uniform", metavar="uniform|global",
        help="the same sparsity everywhere (default), or the smallest of all",
    )  # fmt: skip
    command.add_argument(
        "--pattern", default="1x1", metavar="1x1|1x4|4x1|2:4|4:16|5:16",
        help="outputs x inputs that become zero together, of which 1x4 is for models that are "
        "quantized; or how many of so many neighbouring inputs stay",
    )  # fmt: skip
    arguments.add_json(command)
    limits.declare(command)


def run(options: argparse.Namespace) -> None:
    """Prune a model and write it."""
    from tvm_sparse import pruning
    from tvm_sparse.cli import console

    with console.progress(f"pruning {options.model}"):
        weights = pruning.prune(
            options.model, options.output, options.sparsity, options.scope, options.pattern
        )
    if options.json:
        console.print_json([asdict(weight) for weight in weights])
    else:
        console.print_pruned(weights)
