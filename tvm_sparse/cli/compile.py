"""``tvm-sparse compile``: a model becomes a library."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_sparse.cli import arguments, limits, streams
from tvm_sparse.errors import LibraryError

if TYPE_CHECKING:
    from tvm_sparse.cpu.precision import PrecisionOption
    from tvm_sparse.runtime.engine import Engine
    from tvm_sparse.verification.verify import Verification


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(verbs, "compile", "compiles a model to a library", run)
    arguments.add_model(command)
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="LIB.so", help="library to write"
    )
    command.add_argument(
        "--linker", default="auto", metavar="auto|zig|gcc",
        help="links the library: gcc for the target, or zig (pip install ziglang) (default: auto)",
    )  # fmt: skip
    arguments.add_sizes(command)
    arguments.add_padding(command)
    arguments.add_threads(command, arguments.SMALL_NETWORKS)
    arguments.add_precision(command)
    command.add_argument(
        "--cache", default="auto", metavar="auto|float32|float16|int8",
        help="what a decoder keeps of past tokens; auto is float16 for weights of few bits, and "
        "otherwise the type of the file (default: auto); int8 is a quarter of float32",
    )  # fmt: skip
    command.add_argument(
        "--no-cache", action="store_true",
        help="compile every kernel, and keep none in the user's folder for caches",
    )  # fmt: skip
    arguments.add_columns(command)
    arguments.add_records(command)
    command.add_argument(
        "--strict", action="store_true",
        help="end with an error if a pruned layer has no sparse kernel, instead of a warning",
    )  # fmt: skip
    command.add_argument(
        "--fallback", default="onnxruntime", metavar="onnxruntime|off",
        help="nodes that cannot be compiled run by ONNX Runtime, or are an error "
        "(default: onnxruntime)",
    )  # fmt: skip
    command.add_argument(
        "--verify", action=argparse.BooleanOptionalAction,
        help="compare the outputs with ONNX Runtime before the library is written (default: if "
        "this machine can run it)",
    )  # fmt: skip
    arguments.add_calibration(command)
    arguments.add_json(command)
    limits.declare(command)


def run(options: argparse.Namespace) -> None:
    """Compile a model and write its library."""
    from tvm_sparse import compiler, files
    from tvm_sparse.cli import console
    from tvm_sparse.columns.options import check_column_options
    from tvm_sparse.cpu.precision import processor
    from tvm_sparse.runtime import linking
    from tvm_sparse.specs import check_padding
    from tvm_sparse.verification import verify

    read = arguments.read_files(options)
    files.check_writable(options.output, LibraryError, read)
    target = processor(options.target, options.threads, options.precision)
    linking.link_command(target.architecture, options.linker)
    check_column_options(options.columns, options.overlap)
    check_padding(options.padding)
    plans = arguments.recorded_plans(options.records)
    inputs = files.read_npz(options.calibration) if options.calibration else None

    def compiled(
        model: Path,
        distrusted: Mapping[str, str],
        precision: PrecisionOption,
        strict: bool = False,
    ) -> Engine:
        return compiler.compile(
            model,
            dict(options.shape) if model == options.model else None,
            options.target,
            options.threads,
            options.columns,
            options.overlap,
            plans,
            strict,
            fallback=options.fallback,
            distrusted=distrusted,
            precision=precision,
            calibration=inputs,
            hints=dict(options.hint) if model == options.model else None,
            bounds=dict(options.bound) if model == options.model else None,
            cache=options.cache,
            padding=options.padding if model == options.model else "keep",
            kernel_cache=not options.no_cache,
        )

    def written(
        distrusted: Mapping[str, str], precision: PrecisionOption
    ) -> tuple[Engine, Verification | None]:
        update(f"compiling {options.model}")
        engine = compiled(options.model, distrusted, precision, options.strict)
        verification = None
        with files.replacing(options.output, LibraryError, read) as temporary:
            engine.save(temporary, options.linker)
            if options.verify or (options.verify is None and engine.runs_here):
                update(f"comparing {options.model} with ONNX Runtime")
                # The engine itself would have LLVM compile the model once more.
                loaded = compiler.load(temporary, options.threads)
                part = functools.partial(compiled, distrusted=distrusted, precision=precision)
                verification = compiler.verify_engine(options.model, loaded, inputs, part)
        return engine, verification

    start = time.perf_counter()
    with console.progress(f"compiling {options.model}") as update:
        can_fall_back = options.fallback == "onnxruntime"
        engine, verification = verify.until_right(written, can_fall_back, options.precision)
    seconds = time.perf_counter() - start
    size = options.output.stat().st_size
    report = engine.report
    assert report is not None
    if options.json:
        record = asdict(engine.info) | {"library": str(options.output)}
        used = report.records
        regions = {"by_records": used.by_records, "by_cost_model": used.by_cost_model}
        console.print_json(
            record
            | {"seconds": seconds, "bytes": size, "regions": regions}
            | {"layers": [asdict(layer) for layer in report.layers]}
            | {"expected_seconds": report.seconds, "warnings": report.warnings}
            | {"padding": report.padding}
            | {"verification": asdict(verification) if verification else None}
        )
    else:
        streams.say(
            f"{options.output}: {size / 1e6:.1f} MB for {engine.info.cpu}, in {seconds:.1f} s"
        )
        for fallback in engine.info.fallbacks:
            streams.say(f"run by ONNX Runtime: {fallback}")
        streams.say(report.records)
        if verification:
            streams.say(verification)
        streams.say(report)
