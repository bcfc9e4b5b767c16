"""``tvm-sparse analyze``: shows each layer's kernel and all tensor columns, and why."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tvm_sparse.cli import arguments, limits, streams


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(
        verbs, "analyze", "shows each layer's kernel and all tensor columns, and why", run
    )
    arguments.add_model(command)
    arguments.add_hints(command)
    arguments.add_threads(command, arguments.SMALL_NETWORKS)
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
    command.add_argument(
        "--impose-sparsity", type=_shares, default=(), metavar="0.8,0.9",
        help="show what the model would gain with such shares of zeros in its weights, instead of "
        "its layers",
    )  # fmt: skip
    arguments.add_json(command)
    limits.declare(command)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 0.8,0.9") from None


def run(options: argparse.Namespace) -> None:
    """Report on a model, and draw or measure it if that is asked for."""
    from tvm_sparse import files
    from tvm_sparse.cli import console
    from tvm_sparse.cpu.profile import profile
    from tvm_sparse.report import imposed, page
    from tvm_sparse.report.analysis import Analysis, analyze
    from tvm_sparse.report.measured import check_target, measure

    read = arguments.read_files(options)
    if options.html:
        files.check_writable(options.html, read=read)
    if options.measure:
        check_target(profile(options.target))
    imposed.check_sparsities(options.impose_sparsity)
    records = arguments.recorded_plans(options.records)
    calibration = files.read_npz(options.calibration) if options.calibration else None

    def analyzed(model: Path) -> Analysis:
        return analyze(
            model,
            dict(options.shape),
            options.target,
            options.threads,
            options.columns,
            options.overlap,
            records,
            options.precision,
            calibration,
            dict(options.hint),
        )

    measured = None
    gains: tuple[imposed.Imposed, ...] = ()
    with console.progress(f"analyzing {options.model}") as update:
        found = analyzed(options.model)
        if options.impose_sparsity:
            gains = imposed.impose(
                options.model, found, options.impose_sparsity, analyzed, options.measure, update
            )
        if options.measure and (options.html or not gains):
            measured = measure(found, update)
        if options.html:
            update("drawing")
            with files.replacing(options.html, read=read) as temporary:
                temporary.write_text(page.render(found, measured, gains), encoding="utf-8")
    if options.json:
        more: dict[str, Any] = {"measured": measured.to_json()} if measured else {}
        if gains:
            more["imposed"] = [gain.to_json() for gain in gains]
        console.print_json(found.to_json() | more)
        return
    if found.planned_for:
        streams.say(found.planned_for)
    if gains:
        console.print_gains(gains, found)
        return
    console.print_layers(found.layers)
    if options.precision != "float32":
        streams.say(f"precision: {found.precision}")
    console.print_regions(found, measured)
