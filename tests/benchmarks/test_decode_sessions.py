"""The benchmarks of sessions run, and print a row for each position or number of users."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "options", "row"),
    [
        ("decode_state.py", ["--tiny", "--layers", "1", "--steps", "2"], "position 100: "),
        ("decode_sessions.py", ["--shape", "tiny", "--turns", "2"], "\n    8  "),
    ],
)
def test_rows(script, options, row):
    path = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, FOLDER / script, *options],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert row in done.stdout
