"""``tvm-sparse tune``: measures how each part of a model runs fastest, and records it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tvm_sparse.cli import arguments, ending, limits, streams


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(
        verbs, "tune", "measures how each part of a model runs fastest on a CPU", run
    )
    arguments.add_model(command)
    arguments.add_hints(command)
    command.add_argument(
        "--level", default="quick", choices=("quick", "normal", "thorough"),
        help="ten trials of each layer and region, some dozens, or all (default: quick)",
    )  # fmt: skip
    command.add_argument(
        "--trials", type=int, metavar="N", help="most trials of each, in place of --level"
    )
    arguments.add_board(command, "all boards")
    command.add_argument(
        "--records", type=Path, metavar="FILE",
        help="where the records are added (default: a file in the user's data folder)",
    )  # fmt: skip
    command.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw time against column size"
    )
    arguments.add_calibration(command)
    arguments.add_threads(command)
    arguments.add_precision(command)
    arguments.add_json(command)
    limits.declare(command, seconds=None)


def run(options: argparse.Namespace) -> None:
    """Tune a model."""
    from tvm_sparse import files
    from tvm_sparse.cli import console
    from tvm_sparse.cpu.precision import processor
    from tvm_sparse.frontends.hinted import at_hints
    from tvm_sparse.records.file import default_path
    from tvm_sparse.report import tuned
    from tvm_sparse.tuning.tune import tune

    board = arguments.board(options)
    read = arguments.read_files(options)
    if options.plot:
        tuned.check_plot(options.plot, read)
    records = options.records or default_path()
    inputs = files.read_npz(options.calibration) if options.calibration else None
    try:
        with console.trials(f"tuning {options.model}") as progress:
            parts = tune(
                options.model,
                dict(options.shape),
                options.target,
                options.threads,
                level=options.level,
                trials_per_region=options.trials,
                board=board,
                records=records,
                progress=progress,
                precision=options.precision,
                calibration=inputs,
                hints=dict(options.hint),
            )
    except (KeyboardInterrupt, ending.Ended):
        print(f"ended; what was measured is in {records}: run again to go on", file=sys.stderr)
        raise
    if options.json:
        console.print_json(tuned.to_json(parts))
    else:
        console.print_table(tuned.table(parts))
        hinted = at_hints(options.model, dict(options.shape), dict(options.hint))
        if hinted.sizes:
            streams.say(hinted)
        streams.say(tuned.summary(parts, records))
    if options.plot:
        cpu = processor(options.target, options.threads, options.precision)
        with files.replacing(options.plot, read=read) as temporary:
            tuned.plot(parts, temporary, cpu)
