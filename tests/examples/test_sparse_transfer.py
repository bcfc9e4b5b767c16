"""The example that prunes a network while it trains."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "sklearn", "yaml"):
    pytest.importorskip(package)

EXAMPLE = Path(__file__).parents[2] / "examples/sparse_transfer"


def test_digits_are_pruned_transferred_and_compiled():
    command = [sys.executable, EXAMPLE / "digits.py", "--epochs", "4"]
    # The script imports its neighbour.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = [re.findall(r"([\d.]+)%? \|", line) for line in done.stdout.splitlines()[2:]]
    dense, pruned, other, moved = ([float(cell) for cell in row[:3]] for row in rows)
    assert dense[0] == other[0] == 0 and pruned[0] > 80 and moved[0] >= pruned[0]
    assert min(dense[1], pruned[1], other[1], moved[1]) > 80
    assert pruned[2] >= 1 and moved[2] == pruned[2]
