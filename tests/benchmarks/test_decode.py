"""The race of language models, on a tiny one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_the_race_prints_a_row_for_each_engine(tmp_path):
    command = [
        sys.executable, _FOLDER / "decode.py", "--cache", tmp_path, "--shapes", "tiny",
        "--threads", "1", "--contexts", "16", "--zeros", "2of4", "--turns", "2", "--tokens", "4",
        "--prompt", "8",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "LLAMA_BENCH"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr
    rows = [line for line in found.stdout.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "ONNX Runtime int4", "ours int4, 2:4",
    ]  # fmt: skip
