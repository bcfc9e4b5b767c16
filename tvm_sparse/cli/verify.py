"""``tvm-sparse verify``: compares a library with ONNX Runtime on the model that it came from."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_sparse.cli import arguments, limits, streams

if TYPE_CHECKING:
    from tvm_sparse.runtime.engine import Engine


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    does = "compares a library with ONNX Runtime, and names the node that differs"
    command = arguments.add_verb(verbs, "verify", does, run)
    command.add_argument(
        "model", type=Path, metavar="MODEL", help="ONNX file, GGUF file, or folder of Hugging Face"
    )
    command.add_argument("library", type=Path, metavar="LIB.so", help="library compiled from it")
    arguments.add_calibration(command)
    arguments.add_threads(command, arguments.SMALL_NETWORKS)
    arguments.add_json(command)
    limits.declare(command)


def run(options: argparse.Namespace) -> None:
    """Compare a library with ONNX Runtime."""
    from tvm_sparse import files
    from tvm_sparse.cli import console
    from tvm_sparse.runtime.loading import load
    from tvm_sparse.verification.verify import verify

    def compile_part(path: Path) -> Engine:
        from tvm_sparse import compiler

        return compiler.like(engine)(path)

    inputs = files.read_npz(options.calibration) if options.calibration else None
    engine = load(options.library, options.threads)
    with console.progress(f"comparing {options.library} with ONNX Runtime"):
        verification = verify(options.model, engine, compile_part, inputs)
    if options.json:
        console.print_json(asdict(verification))
    else:
        streams.say(verification)
