"""``tvm-sparse targets``: lists the CPUs to compile for, or measures this one."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tvm_sparse.cli import arguments, streams


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(verbs, "targets", "lists the CPUs that can be compiled for", run)
    command.add_argument(
        "--measure", action="store_true",
        help="measure this machine's caches and speed, and use them from now on",
    )  # fmt: skip
    arguments.add_json(command)


def run(options: argparse.Namespace) -> None:
    """List CPU profiles, or measure this machine."""
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
    from tvm_sparse.cpu import probe
    from tvm_sparse.cpu.measurement import store

    with console.progress("measuring") as update:
        measurement = probe.measure(update)
    path = store(measurement)
    if as_json:
        console.print_json(asdict(measurement) | {"file": str(path)})
    else:
        console.print_measurement(measurement)
        streams.say(f"stored in {path}")
