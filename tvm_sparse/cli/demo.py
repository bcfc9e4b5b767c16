"""``tvm-sparse demo``: builds pruned models, compiles, checks and measures them."""

from __future__ import annotations

import argparse
from pathlib import Path

from tvm_sparse.cli import arguments


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(
        verbs, "demo", "builds pruned models, compiles, checks and measures them", run
    )
    arguments.add_threads(command, arguments.SMALL_NETWORKS)
    command.add_argument("--json", type=Path, metavar="FILE", help="also write all results here")


def run(options: argparse.Namespace) -> None:
    """Run the demonstration."""
    from tvm_sparse import files
    from tvm_sparse.bench import demo, tables
    from tvm_sparse.cli import console

    if options.json:
        files.check_writable(options.json)
    with console.progress("building models") as update:
        comparisons = demo.run(options.threads, update)
    for comparison in comparisons:
        console.print_table(tables.latency_table(comparison))
    if options.json:
        files.write_json(options.json, tables.to_json(comparisons))
