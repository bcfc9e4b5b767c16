"""``tvm-sparse run``: runs a library once, on inputs from files."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from tvm_sparse.cli import arguments, streams


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(verbs, "run", "runs a library once", run)
    command.add_argument("library", type=Path, metavar="LIB.so", help="compiled library")
    command.add_argument(
        "--input", type=arguments.input_file, action="append", default=[], metavar="NAME=FILE.npy",
        help="an input; each must be given",
    )  # fmt: skip
    command.add_argument(
        "-o", "--output", type=Path, default=Path("outputs.npz"), metavar="FILE.npz",
        help="where the outputs go (default: outputs.npz)",
    )  # fmt: skip
    arguments.add_threads(command, "those of the library")
    arguments.add_json(command)


def run(options: argparse.Namespace) -> None:
    """Run a library once and write its outputs."""
    from tvm_sparse import files
    from tvm_sparse.cli import console
    from tvm_sparse.runtime.loading import load

    read = arguments.read_files(options)
    files.check_writable(options.output, read=read)
    engine = load(options.library, options.threads)
    inputs = {name: files.read_npy(path) for name, path in options.input}
    outputs = engine.run(inputs)
    files.write_npz(options.output, outputs, read)
    if options.json:
        console.print_json([asdict(spec) for spec in engine.outputs])
    else:
        console.print_tensors(engine.outputs)
        streams.say(f"written to {options.output}")
