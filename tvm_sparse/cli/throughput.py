"""``tvm-sparse benchmark`` with DeepSparse's flags: its measurement, result lines and JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tvm_sparse.cli import arguments, streams
from tvm_sparse.errors import InputError

_DEFAULTS = {"rounds": 7, "seconds": 0.5}
"""Options of the comparison of engines, and what they are if they are not given."""

_FLAGS = {
    "batch_size": "-b", "input_shapes": "-i", "num_cores": "-ncores", "scenario": "-s",
    "time": "-t", "warmup_time": "-w", "num_streams": "-nstreams", "thread_pinning": "-pin",
    "engine": "-e", "sequence_length": "-seq_len", "quiet": "-q", "export_path": "-x",
}  # fmt: skip


def declare(command: argparse.ArgumentParser) -> None:
    """Declare DeepSparse's flags."""
    group = command.add_argument_group(
        "throughput, with the flags of deepsparse.benchmark",
        "Any of these flags measures one engine for some seconds, and prints items a second.",
    )

    def add(*names: str, **settings: object) -> None:
        group.add_argument(*names, default=None, **settings)  # type: ignore[arg-type]

    add("-b", "--batch_size", "--batch", type=int, metavar="N", help="batch (default: 1)")
    add("-i", "-shapes", "--input_shapes", metavar="[1,3,224,224],..", help="shapes of inputs")
    add("-ncores", "--num_cores", type=int, metavar="N", help="cores (default: all usable ones)")
    add(
        "-s", "--scenario", choices=("sync", "async", "elastic"),
        help="one request after the other (default), or several at once",
    )  # fmt: skip
    add("-t", "--time", type=float, metavar="S", help="seconds to measure (default: 10)")
    add("-w", "--warmup_time", type=float, metavar="S", help="seconds before (default: 2)")
    add(
        "-nstreams", "--num_streams", type=int, metavar="N",
        help="requests at once (default for async: one a core)",
    )  # fmt: skip
    add(
        "-pin", "--thread_pinning", choices=("none", "core", "numa"),
        help="accepted; threads may move between the usable cores in any case",
    )  # fmt: skip
    add("-e", "--engine", metavar="ENGINE", help="tvm-sparse, onnxruntime, or file.py:Class")
    add(
        "-seq_len", "--sequence_length", type=int, metavar="N",
        help="second dimension of inputs that have two",
    )  # fmt: skip
    add("-q", "--quiet", action="store_true", help="print the result lines only")
    add("-x", "--export_path", type=Path, metavar="FILE", help="also write the result as JSON")


def is_asked_for(options: argparse.Namespace) -> bool:
    """Return whether any of DeepSparse's flags was given."""
    return any(getattr(options, name) is not None for name in _FLAGS)


def run(options: argparse.Namespace) -> None:
    """Measure one engine for some seconds, and print items a second."""
    _refuse_mixed(options)
    from tvm_sparse import files
    from tvm_sparse.cli import console
    from tvm_sparse.columns.options import check_column_options
    from tvm_sparse.compat.deepsparse.benchmark import benchmark_model, result_lines

    check_column_options(options.columns, options.overlap)
    if options.export_path:
        files.check_writable(options.export_path, read=arguments.read_files(options))
    given = {name: getattr(options, name) for name in _FLAGS}
    if given["num_cores"] is None:
        given["num_cores"] = options.threads
    if given["engine"] == "deepsparse":
        _note("-e deepsparse is this program's own engine; --compare deepsparse is DeepSparse")
    compile_options = {"target": options.target, **arguments.compile_options(options)}
    usual = {"target": "native", "columns": "auto", "overlap": "auto", "precision": "float32"}
    with console.progress(f"measuring {options.model}") as update:

        def tell(text: str) -> None:
            update(text.splitlines()[0])
            if not options.quiet and text != "loading":
                _note(text)

        result = benchmark_model(
            options.model,
            **{name: value for name, value in given.items() if value is not None},
            options={
                name: value for name, value in compile_options.items() if value != usual[name]
            },
            progress=tell,
        )
    for line in result_lines(result):
        streams.say(line)


def _refuse_mixed(options: argparse.Namespace) -> None:
    """Refuse options of the comparison, which would have no effect."""
    mixed = [
        f"--{name}"
        for name in ("compare", "iterations", "rpc", "tracker", "key", "json", "shape", "hint")
        if getattr(options, name)
    ]
    mixed += [f"--{name}" for name, usual in _DEFAULTS.items() if getattr(options, name) != usual]
    if options.threads is not None and options.num_cores is not None:
        mixed.append("--threads")
    if mixed:
        flags = [flag for name, flag in _FLAGS.items() if getattr(options, name) is not None]
        raise InputError(
            f"{flags[0]} measures one engine by itself, for which {', '.join(mixed)} says nothing: "
            f"leave out either, or see `tvm-sparse benchmark --help`"
        )


def _note(text: str) -> None:
    print(text, file=sys.stderr)
