"""The command line: reads arguments and calls the Python API, one verb each."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_sparse.errors import LibraryError, RemoteError, TvmSparseError

if TYPE_CHECKING:
    import numpy as np

    from tvm_sparse.bench.comparison import Comparison
    from tvm_sparse.records.best import RecordedPlans
    from tvm_sparse.runtime.board import Board

# What needs TVM or rich is imported by the verbs, so that --help and mistakes answer at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process if not given.

    Returns
    -------
    int
        Exit status: 0, or 2 after an error of the user's, which is one line on stderr.
    """
    options = _parser().parse_args(arguments)
    try:
        options.verb(options)
    except TvmSparseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    from tvm_sparse.version import __version__

    parser = argparse.ArgumentParser(
        prog="tvm-sparse", description="Compiles pruned networks to fast libraries for plain CPUs."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(name: str, does: str, verb: object) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        command.set_defaults(verb=verb)
        return command

    def add_model(command: argparse.ArgumentParser) -> None:
        command.add_argument("model", type=Path, metavar="MODEL", help="ONNX file")
        command.add_argument(
            "--shape", type=_shape, action="append", default=[], metavar="NAME=1,128",
            help="shape of an input that has dynamic dimensions",
        )  # fmt: skip
        command.add_argument(
            "--target", default="native", metavar="NAME",
            help="CPU to compile for; `tvm-sparse targets` lists them (default: this one)",
        )  # fmt: skip

    def add_threads(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--threads", type=int, metavar="N", help="threads (default: all usable cores)"
        )

    def add_board(command: argparse.ArgumentParser, which: str) -> None:
        command.add_argument(
            "--rpc", type=_address, metavar="HOST:PORT",
            help="measure on the board whose TVM RPC server listens there",
        )  # fmt: skip
        command.add_argument(
            "--tracker", type=_address, metavar="HOST:PORT",
            help=f"measure on {which} of this TVM RPC tracker, with --key",
        )  # fmt: skip
        command.add_argument("--key", metavar="NAME", help="which kind of board")

    def add_columns(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--columns", type=_columns, default="auto", metavar="auto|off|N",
            help="run regions column by column: of as many rows as the cost model says (default), "
            "not at all, or of N rows",
        )  # fmt: skip
        command.add_argument(
            "--overlap", default="auto", metavar="auto|recompute|carry",
            help="rows that two steps of a column need: as the cost model says (default), "
            "computed again, or kept",
        )  # fmt: skip

    def add_records(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--records", metavar="FILE|off",
            help="what `tvm-sparse tune` found (default: the user's data folder's file, if any)",
        )  # fmt: skip

    def add_json(command: argparse.ArgumentParser) -> None:
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")

    command = add("compile", "compiles a model to a library", _compile)
    add_model(command)
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="LIB.so", help="library to write"
    )
    command.add_argument(
        "--linker", default="auto", metavar="auto|zig|gcc",
        help="links the library: gcc for the target, or zig (pip install ziglang) (default: auto)",
    )  # fmt: skip
    add_threads(command)
    add_columns(command)
    add_records(command)
    add_json(command)

    command = add("tune", "measures how each part of a model runs fastest on a CPU", _tune)
    add_model(command)
    command.add_argument(
        "--level", default="quick", choices=("quick", "normal", "thorough"),
        help="ten trials of each layer and region, some dozens, or all (default: quick)",
    )  # fmt: skip
    command.add_argument(
        "--trials", type=int, metavar="N", help="most trials of each, in place of --level"
    )
    add_board(command, "all boards")
    command.add_argument(
        "--records", type=Path, metavar="FILE",
        help="where the records are added (default: a file in the user's data folder)",
    )  # fmt: skip
    command.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw time against column size"
    )
    add_threads(command)
    add_json(command)

    command = add("run", "runs a library once", _run)
    command.add_argument("library", type=Path, metavar="LIB.so", help="compiled library")
    command.add_argument(
        "--input", type=_input, action="append", default=[], metavar="NAME=FILE.npy",
        help="an input; each must be given",
    )  # fmt: skip
    command.add_argument(
        "-o", "--output", type=Path, default=Path("outputs.npz"), metavar="FILE.npz",
        help="where the outputs go (default: outputs.npz)",
    )  # fmt: skip
    add_threads(command)
    add_json(command)

    command = add("benchmark", "measures the latency of a model or a library", _benchmark)
    add_model(command)
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
    add_board(command, "a board")
    add_threads(command)
    add_columns(command)
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all results here")

    command = add("demo", "builds pruned models, compiles, checks and measures them", _demo)
    add_threads(command)
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all results here")

    command = add("analyze", "shows each layer's kernel and all tensor columns, and why", _analyze)
    add_model(command)
    add_threads(command)
    add_columns(command)
    add_records(command)
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="also draw the network and its regions as a page"
    )
    command.add_argument(
        "--measure", action="store_true",
        help="also measure regions against their operators one by one, and the whole model",
    )  # fmt: skip
    add_json(command)

    command = add("prune", "sets a model's smallest weights to zero, without training", _prune)
    command.add_argument("model", type=Path, metavar="MODEL", help="ONNX file")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT.onnx", help="model to write"
    )
    command.add_argument(
        "--sparsity", type=float, required=True, metavar="0.9", help="share of zeros"
    )
    command.add_argument(
        "--scope", default="uniform", metavar="uniform|global|block",
        help="the same sparsity everywhere (default), the smallest of all, or blocks of four",
    )  # fmt: skip
    add_json(command)

    command = add("targets", "lists the CPUs that can be compiled for", _targets)
    command.add_argument(
        "--measure", action="store_true",
        help="measure this machine's caches and speed, and use them from now on",
    )  # fmt: skip
    add_json(command)
    return parser


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    try:
        return _named(name), tuple(int(size) for size in sizes.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like input_ids=1,128") from None


def _columns(text: str) -> str | int:
    try:
        return int(text)
    except ValueError:
        return text


def _input(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    try:
        return _named(name), Path(_named(path))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like input_ids=ids.npy") from None


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 192.168.1.20:9090")
    return host.strip("[]"), int(port)


def _named(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _compile(options: argparse.Namespace) -> None:
    from tvm_sparse import compiler, files
    from tvm_sparse.cli import console
    from tvm_sparse.columns import options as column_options
    from tvm_sparse.cpu.profile import profile
    from tvm_sparse.runtime import linking

    files.check_writable(options.output, LibraryError)
    linking.link_command(profile(options.target).architecture, options.linker)
    column_options.check(options.columns, options.overlap)
    plans = _recorded_plans(options.records)
    start = time.perf_counter()
    with console.progress(f"compiling {options.model}"):
        engine = compiler.compile(
            options.model,
            dict(options.shape),
            options.target,
            options.threads,
            options.columns,
            options.overlap,
            plans,
        )
        engine.save(options.output, options.linker)
    seconds = time.perf_counter() - start
    size = options.output.stat().st_size
    if options.json:
        record = asdict(engine.info) | {"library": str(options.output)}
        regions = {"by_records": plans.by_records, "by_cost_model": plans.by_cost_model}
        console.print_json(record | {"seconds": seconds, "bytes": size, "regions": regions})
    else:
        print(f"{options.output}: {size / 1e6:.1f} MB for {engine.info.cpu}, in {seconds:.1f} s")
        print(plans.summary())


def _recorded_plans(records: str | None) -> RecordedPlans:
    from tvm_sparse.records.best import RecordedPlans

    if records == "off":
        return RecordedPlans()
    return RecordedPlans.read(None if records is None else Path(records))


def _tune(options: argparse.Namespace) -> None:
    from tvm_sparse import files
    from tvm_sparse.cli import console
    from tvm_sparse.cpu.profile import processor
    from tvm_sparse.records.file import default_path
    from tvm_sparse.report import tuned as tuning_report
    from tvm_sparse.tuning import tune

    board = _board(options)
    if options.plot:
        tuning_report.check_plot(options.plot)
    records = options.records or default_path()
    try:
        with console.trials(f"tuning {options.model}") as progress:
            tuned = tune.tune(
                options.model,
                dict(options.shape),
                options.target,
                options.threads,
                level=options.level,
                trials_per_region=options.trials,
                board=board,
                records=records,
                progress=progress,
            )
    except KeyboardInterrupt:
        print(f"ended; what was measured is in {records}: run again to go on", file=sys.stderr)
        raise
    if options.json:
        console.print_json(tuning_report.to_json(tuned))
    else:
        console.print_table(tuning_report.table(tuned))
        print(tuning_report.summary(tuned, records))
    if options.plot:
        cpu = processor(options.target, options.threads)
        with files.replacing(options.plot) as temporary:
            tuning_report.plot(tuned, temporary, cpu)


def _run(options: argparse.Namespace) -> None:
    from tvm_sparse import compiler, files
    from tvm_sparse.cli import console

    files.check_writable(options.output)
    engine = compiler.load(options.library, options.threads)
    inputs = {name: files.read_npy(path) for name, path in options.input}
    outputs = engine.run(inputs)
    files.write_npz(options.output, outputs)
    if options.json:
        console.print_json([asdict(spec) for spec in engine.outputs])
    else:
        console.print_tensors(engine.outputs)
        print(f"written to {options.output}")


def _board(options: argparse.Namespace) -> Board | None:
    """Return the board that the options name, or None for this machine."""
    if (options.tracker is None) != (options.key is None):
        raise RemoteError("--tracker HOST:PORT and --key NAME belong together")
    if options.rpc and options.tracker:
        raise RemoteError("--rpc names a board, --tracker asks for one: give one of them")
    address = options.rpc or options.tracker
    if address is None:
        return None
    from tvm_sparse.runtime.board import Board

    host, port = address
    return Board(host, port, options.key)


def _benchmark(options: argparse.Namespace) -> None:
    from tvm_sparse import files
    from tvm_sparse.bench import tables
    from tvm_sparse.cli import console
    from tvm_sparse.columns import options as column_options

    column_options.check(options.columns, options.overlap)
    board = _board(options)
    with console.progress(f"measuring {options.model}") as update:
        if board is None:
            comparison = _measure_here(options, update)
        else:
            comparison = _measure_on_board(options, board, update)
    console.print_table(tables.latency_table(comparison))
    if options.json:
        files.write_json(options.json, tables.to_json([comparison]))


def _measure_here(options: argparse.Namespace, update: Callable[[str], None]) -> Comparison:
    from tvm_sparse import compiler
    from tvm_sparse.bench import comparison as benchmarking
    from tvm_sparse.bench.peers import OURS

    is_library = options.model.suffix == ".so"
    inputs: dict[str, np.ndarray] | None = None
    if is_library:
        inputs = benchmarking.random_inputs(compiler.load(options.model).inputs)
    return benchmarking.compare(
        None if is_library else options.model,
        dict(options.shape),
        engines=(OURS, *options.compare),
        library=options.model if is_library else None,
        inputs=inputs,
        threads=options.threads,
        rounds=options.rounds,
        seconds=options.seconds,
        iterations=options.iterations,
        options={} if is_library else {"target": options.target, **_column_options(options)},
        progress=update,
    )


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
        options=_column_options(options),
        progress=update,
    )


def _column_options(options: argparse.Namespace) -> dict[str, str | int]:
    return {"columns": options.columns, "overlap": options.overlap}


def _demo(options: argparse.Namespace) -> None:
    from tvm_sparse import files
    from tvm_sparse.bench import demo, tables
    from tvm_sparse.cli import console

    with console.progress("building models") as update:
        comparisons = demo.run(options.threads, update)
    for comparison in comparisons:
        console.print_table(tables.latency_table(comparison))
    if options.json:
        files.write_json(options.json, tables.to_json(comparisons))


def _analyze(options: argparse.Namespace) -> None:
    from tvm_sparse import files
    from tvm_sparse.cli import console
    from tvm_sparse.cpu.profile import profile
    from tvm_sparse.report import analysis
    from tvm_sparse.report import measured as region_measurement
    from tvm_sparse.report import page as region_page

    if options.html:
        files.check_writable(options.html)
    if options.measure:
        region_measurement.check_target(profile(options.target))
    measured = None
    with console.progress(f"analyzing {options.model}") as update:
        found = analysis.analyze(
            options.model,
            dict(options.shape),
            options.target,
            options.threads,
            options.columns,
            options.overlap,
            _recorded_plans(options.records),
        )
        if options.measure:
            measured = region_measurement.measure(found, update)
        if options.html:
            update("drawing")
            page = region_page.render(found, measured)
            with files.replacing(options.html) as temporary:
                temporary.write_text(page, encoding="utf-8")
    if options.json:
        measurement = {"measured": measured.to_json()} if measured else {}
        console.print_json(found.to_json() | measurement)
    else:
        console.print_layers(found.layers)
        console.print_regions(found, measured)


def _prune(options: argparse.Namespace) -> None:
    from tvm_sparse import pruning
    from tvm_sparse.cli import console

    with console.progress(f"pruning {options.model}"):
        weights = pruning.prune(options.model, options.output, options.sparsity, options.scope)
    if options.json:
        console.print_json([asdict(weight) for weight in weights])
    else:
        console.print_pruned(weights)


def _targets(options: argparse.Namespace) -> None:
    from tvm_sparse.cli import console
    from tvm_sparse.cpu.profile import PROFILES, native

    if options.measure:
        _measure_this_machine(options.json)
        return
    profiles = [native(), *PROFILES.values()]
    if options.json:
        systems = [{"memory_system": asdict(cpu.memory_system)} for cpu in profiles]
        console.print_json(
            [asdict(cpu) | system for cpu, system in zip(profiles, systems, strict=True)]
        )
    else:
        console.print_targets(profiles)


def _measure_this_machine(as_json: bool) -> None:
    from tvm_sparse.cli import console
    from tvm_sparse.cpu import measurement as cpu_measurement
    from tvm_sparse.cpu import probe

    with console.progress("measuring") as update:
        measurement = probe.measure(update)
    path = cpu_measurement.store(measurement)
    if as_json:
        console.print_json(asdict(measurement) | {"file": str(path)})
    else:
        console.print_measurement(measurement)
        print(f"stored in {path}")
