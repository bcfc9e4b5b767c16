"""A short soak: memory, threads and open files stay as they are, and growth is seen."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_a_process_that_serves_does_not_grow():
    counts = ["--calls", "800", "--loads", "24", "--compiles", "8", "--shapes", "200"]
    counts += ["--threads", "2"]
    path = os.pathsep.join(filter(None, [str(SOAK.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, SOAK, *counts],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    # TVM warns whenever it compiles a lookup in a table, though the indices were checked.
    said = [line for line in done.stderr.splitlines() if "out-of-bounds indices" not in line]
    assert (done.returncode, said) == (0, []), done.stdout


@pytest.fixture
def soak():
    return importlib.import_module("soak")


def test_growth_is_seen(soak):
    held = []
    kept = soak.repeat("work", 8, lambda _: held.append(bytearray(b"x") * (4 << 20)))
    freed = soak.repeat("work", 8, lambda _: bytearray(b"x") * (4 << 20))
    assert (kept.is_flat, freed.is_flat) == (False, True)
    files = []
    opened = soak.repeat("work", 4, lambda _: files.append(SOAK.open()))
    assert not opened.is_flat
    for file in files:
        file.close()
    assert "| work | 4 | " in soak.table([opened])
