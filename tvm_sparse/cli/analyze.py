"""``tvm-sparse analyze``: shows each layer's kernel and all tensor columns, and why."""

from __future__ import annotations

import argparse
from pathlib import Path

from tvm_sparse.cli import arguments, limits, streams


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(
        verbs, "analyze", "shows each layer's kernel and all tensor columns, and why", run
    )
    arguments.add_model(command)
    arguments.add_threads(command)
    arguments.add_precision(command)
    arguments.add_columns(command)
    arguments.add_records(command)
    arguments.add_calibration(command)
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="also draw the network and its regions as a page"
    )
    command.add_argument(
        "--measure", action="store_true",
        help="also measure regions against their operators one by one, and the whole model",
    )  # fmt: skip
    arguments.add_json(command)
    limits.declare(command)


def run(options: argparse.Namespace) -> None:
    """Report on a model, and draw or measure it if that is asked for."""
    from tvm_sparse import files
    from tvm_sparse.cli import console
    from tvm_sparse.cpu.profile import profile
    from tvm_sparse.report import page
    from tvm_sparse.report.analysis import analyze
    from tvm_sparse.report.measured import check_target, measure

    read = arguments.read_files(options)
    if options.html:
        files.check_writable(options.html, read=read)
    if options.measure:
        check_target(profile(options.target))
    measured = None
    with console.progress(f"analyzing {options.model}") as update:
        found = analyze(
            options.model,
            dict(options.shape),
            options.target,
            options.threads,
            options.columns,
            options.overlap,
            arguments.recorded_plans(options.records),
            options.precision,
            files.read_npz(options.calibration) if options.calibration else None,
        )
        if options.measure:
            measured = measure(found, update)
        if options.html:
            update("drawing")
            with files.replacing(options.html, read=read) as temporary:
                temporary.write_text(page.render(found, measured), encoding="utf-8")
    if options.json:
        measurement = {"measured": measured.to_json()} if measured else {}
        console.print_json(found.to_json() | measurement)
    else:
        console.print_layers(found.layers)
        if options.precision != "float32":
            streams.say(f"precision: {found.precision}")
        console.print_regions(found, measured)
