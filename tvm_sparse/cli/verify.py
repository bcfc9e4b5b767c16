"""``tvm-sparse verify``: compares a library with ONNX Runtime on the model that it came from."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from tvm_sparse.cli import arguments, limits, streams


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
    from tvm_sparse import compiler, files
    from tvm_sparse.cli import console

    inputs = files.read_npz(options.calibration) if options.calibration else None
    engine = compiler.load(options.library, options.threads)
    with console.progress(f"comparing {options.library} with ONNX Runtime"):
        verification = compiler.verify_engine(options.model, engine, inputs)
    if options.json:
        console.print_json(asdict(verification))
    else:
        streams.say(verification)
