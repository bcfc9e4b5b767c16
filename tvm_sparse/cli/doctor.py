"""``tvm-sparse doctor``: what this machine can do, what is missing, and what that costs."""

from __future__ import annotations

import argparse

from tvm_sparse.cli import arguments, streams


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(
        verbs, "doctor", "shows what this machine can do, and what is missing", run
    )
    arguments.add_json(command)


def run(options: argparse.Namespace) -> None:
    """Print one line for each thing that matters, and what to do about it."""
    from dataclasses import asdict

    from tvm_sparse.cli import console
    from tvm_sparse.report.doctor import examine

    found = examine()
    if options.json:
        console.print_json([asdict(line) for line in found])
        return
    for line in found:
        mark = {"ok": " ", "note": "-", "missing": "!"}[line.state]
        streams.say(f"{mark} {line.what:<12} {line.found}")
        if line.advice:
            streams.say(f"{'':<15}-> {line.advice}")
