"""``tvm-sparse benchmark``: measures the latency of a model, here or on a board, or throughput."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_sparse.cli import arguments, limits, throughput
from tvm_sparse.errors import InputError, RemoteError

if TYPE_CHECKING:
    import numpy as np

    from tvm_sparse.bench.results import Comparison
    from tvm_sparse.runtime.board import Board
    from tvm_sparse.specs import TensorSpec


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(
        verbs, "benchmark", "measures the latency of a model or a library", run
    )
    arguments.add_model(command)
    command.add_argument(
        "--compare", action="append", default=[], metavar="ENGINE",
        help="also measure onnxruntime, deepsparse or openvino, in turns",
    )  # fmt: skip
    command.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="rounds of all engines (default: 7)"
    )
    command.add_argument(
        "--seconds", type=float, default=0.5, metavar="S",
        help="length of an engine's turn in a round (default: 0.5)",
    )  # fmt: skip
    command.add_argument(
        "--iterations", type=int, metavar="N", help="runs of each engine, in place of --seconds"
    )
    command.add_argument(
        "--hint", type=arguments.named_size, action="append", default=[], metavar="NAME=64",
        help="size of a dimension that inferences choose, at which a library is measured",
    )  # fmt: skip
    arguments.add_board(command, "a board")
    arguments.add_threads(command, arguments.SMALL_NETWORKS)
    arguments.add_precision(command)
    arguments.add_columns(command)
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all results here")
    throughput.declare(command)
    limits.declare(command, seconds=None)


def run(options: argparse.Namespace) -> None:
    """Measure a model or a library, alone or in turns with other engines."""
    if throughput.is_asked_for(options):
        throughput.run(options)
        return
    from tvm_sparse import files
    from tvm_sparse.bench import tables
    from tvm_sparse.cli import console
    from tvm_sparse.columns.options import check_column_options

    check_column_options(options.columns, options.overlap)
    read = arguments.read_files(options)
    if options.json:
        files.check_writable(options.json, read=read)
    board = arguments.board(options)
    with console.progress(f"measuring {options.model}") as update:
        if board is None:
            comparison = _measure_here(options, update)
        else:
            comparison = _measure_on_board(options, board, update)
    console.print_table(tables.latency_table(comparison))
    if options.json:
        files.write_json(options.json, tables.to_json([comparison]), read)


def _measure_here(options: argparse.Namespace, update: Callable[[str], None]) -> Comparison:
    from tvm_sparse.bench import arrays, comparison
    from tvm_sparse.bench.peers import OURS
    from tvm_sparse.runtime import library
    from tvm_sparse.specs import MEASURED_BY_GENERATE

    is_library = options.model.is_file() and library.is_library(options.model)
    inputs: dict[str, np.ndarray] | None = None
    if is_library:
        from tvm_sparse.runtime.loading import load

        engine = load(options.model)
        if engine.is_decoder:
            raise InputError(MEASURED_BY_GENERATE)
        inputs = arrays.random_inputs(_at(engine.inputs, options.hint))
    elif options.hint:
        raise InputError("--hint is for libraries: a model is measured at the shapes of --shape")
    else:
        from tvm_sparse.compile_decoder import refuse_decoder

        refuse_decoder(options.model, options.shape)
    compile_options = {"target": options.target, **arguments.compile_options(options)}
    if is_library:
        compile_options = {}
    return comparison.compare(
        None if is_library else options.model,
        dict(options.shape),
        engines=(OURS, *options.compare),
        library=options.model if is_library else None,
        inputs=inputs,
        threads=options.threads,
        rounds=options.rounds,
        seconds=options.seconds,
        iterations=options.iterations,
        options=compile_options,
        progress=update,
    )


def _at(specs: Sequence[TensorSpec], hints: Sequence[tuple[str, int]]) -> list[TensorSpec]:
    """Return the inputs of a library with numbers for the dimensions that inferences choose."""
    from tvm_sparse.specs import check_sizes

    sizes = dict(hints)
    check_sizes("--hint", sizes, specs)
    names = dict.fromkeys(size for spec in specs for size in spec.shape if isinstance(size, str))
    missing = [name for name in names if name not in sizes]
    if missing:
        raise InputError(
            f"the library runs any {', '.join(missing)}: say at which sizes it is to be measured, "
            f"as in {' '.join(f'--hint {name}=8' for name in missing)}"
        )
    return [spec.at(sizes) for spec in specs]


def _measure_on_board(
    options: argparse.Namespace, board: Board, update: Callable[[str], None]
) -> Comparison:
    from tvm_sparse.bench.on_board import measure_on_board

    if options.compare:
        raise RemoteError("--compare measures engines on this machine: leave it out for a board")
    return measure_on_board(
        options.model,
        board,
        dict(options.shape),
        target=options.target,
        threads=options.threads,
        rounds=options.rounds,
        seconds=options.seconds,
        iterations=options.iterations,
        options=arguments.compile_options(options),
        progress=update,
    )
