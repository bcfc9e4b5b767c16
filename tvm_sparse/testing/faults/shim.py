"""The library that makes calls fail: how it is built, loaded and told which call."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
from pathlib import Path

from tvm_sparse.runtime.linking import link_command

_SOURCE = Path(__file__).parent / "shim.c"
_STATE = struct.Struct("<qqq")

KINDS = {"files": 1, "memory": 2}
"""What fails: calls that write, or that allocate."""


def prepare(folder: Path) -> dict[str, str]:
    """Build the library, and return the environment of a process that loads it."""
    library, state = folder / "shim.so", folder / "state"
    command = [*link_command(platform.machine()), "-O1", "-shared", "-fPIC", "-D_GNU_SOURCE"]
    flags = ["-D_FORTIFY_SOURCE=0", "-U_FORTIFY_SOURCE", "-x", "c", str(_SOURCE), "-ldl"]
    subprocess.run([*command, "-o", str(library), *flags], check=True)
    state.write_bytes(_STATE.pack(0, 0, 0))
    return {"LD_PRELOAD": str(library), "FAULTS_STATE": str(state)}


def choose(kind: str, at: int) -> None:
    """Choose the call that fails in the processes that are watched; 0 is none."""
    # In place, since processes have the file mapped.
    with Path(os.environ["FAULTS_STATE"]).open("r+b") as file:
        file.write(_STATE.pack(0, at, KINDS[kind]))


def watch() -> None:
    """Count the calls of this process, and of those that it starts, from now on."""
    os.environ["FAULTS_WATCHED"] = "1"
    ctypes.CDLL(None).faults_watch()


def counted() -> int:
    """Return how many calls were counted."""
    count: int = _STATE.unpack(Path(os.environ["FAULTS_STATE"]).read_bytes())[0]
    return count
