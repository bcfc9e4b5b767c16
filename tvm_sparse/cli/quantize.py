"""``tvm-sparse quantize``: makes a model of 8 bits, and says what that does to its outputs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from tvm_sparse.cli import arguments, limits


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    does = "makes a model of 8 bits by ONNX Runtime's quantizer"
    command = arguments.add_verb(verbs, "quantize", does, run)
    command.add_argument("model", type=Path, metavar="MODEL", help="ONNX file of floats")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT.onnx", help="model to write"
    )
    command.add_argument(
        "--calibration", type=Path, metavar="FILE.npz",
        help="inputs by name, from which the scales are computed; an array with one axis more than "
        "its input holds several samples",
    )  # fmt: skip
    command.add_argument(
        "--dynamic", action="store_true",
        help="let the model compute the scales of its activations each time it runs",
    )  # fmt: skip
    command.add_argument(
        "--exclude", nargs="+", default=[], metavar="NODE", help="nodes that stay in float"
    )
    command.add_argument(
        "--op-types", nargs="+", metavar="OPERATOR",
        help="operators to quantize (default: Conv Gemm MatMul)",
    )  # fmt: skip
    arguments.add_json(command)
    limits.declare(command)


def run(options: argparse.Namespace) -> None:
    """Quantize a model and write it."""
    from tvm_sparse import files, quantization
    from tvm_sparse.cli import console

    files.check_writable(options.output, read=arguments.read_files(options))
    inputs = files.read_npz(options.calibration) if options.calibration else None
    with console.progress(f"quantizing {options.model}"):
        quantized = quantization.quantize(
            options.model,
            options.output,
            inputs,
            dynamic=options.dynamic,
            exclude=options.exclude,
            op_types=options.op_types or quantization.LAYERS,
        )
    if options.json:
        console.print_json(asdict(quantized))
    else:
        console.print_quantized(quantized)
