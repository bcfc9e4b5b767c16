"""``tvm-sparse quantize``: makes a model of 8 bits, or one with weights of 4 bits.

It says what that does to the outputs or to the weights.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from tvm_sparse.cli import arguments, limits
from tvm_sparse.errors import InputError


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    does = "makes a model of 8 bits by ONNX Runtime's quantizer, or rounds weights to 4 bits"
    command = arguments.add_verb(verbs, "quantize", does, run)
    command.add_argument(
        "model", type=Path, metavar="MODEL",
        help="ONNX file of floats, GGUF file, or folder of Hugging Face",
    )  # fmt: skip
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
    command.add_argument(
        "--weights", choices=["int4"],
        help="round the weights of MatMul to 4 bits in groups, and leave activations as they are",
    )  # fmt: skip
    command.add_argument(
        "--group", type=int, metavar="N",
        help="with --weights int4: inputs of an output that share a scale (default: 32)",
    )  # fmt: skip
    arguments.add_json(command)
    limits.declare(command)


def run(options: argparse.Namespace) -> None:
    """Quantize a model and write it."""
    from tvm_sparse import files, quantization
    from tvm_sparse.cli import console

    if options.weights:
        _round_weights(options)
        return
    if options.group is not None:
        raise InputError("--group is the size of groups of --weights int4: give both")
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


def _round_weights(options: argparse.Namespace) -> None:
    """Round the weights of a model to int4 and write it."""
    from tvm_sparse import int4_weights
    from tvm_sparse.cli import console

    others = {
        "--calibration": options.calibration,
        "--dynamic": options.dynamic,
        "--op-types": options.op_types,
    }
    if given := [name for name, value in others.items() if value]:
        raise InputError(f"--weights int4 rounds weights alone: {given[0]} is for models of 8 bits")
    with console.progress(f"rounding {options.model}"):
        rounded = int4_weights.round_weights(
            options.model,
            options.output,
            32 if options.group is None else options.group,
            exclude=options.exclude,
        )
    if options.json:
        console.print_json(asdict(rounded))
        return
    console.print_rounded(rounded, options.output)
