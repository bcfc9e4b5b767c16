"""Memory of a process: what is read from /proc."""

import importlib
import sys

import pytest

MAPS = """
55d0c0000000-55d0c0400000 rw-p 00000000 00:00 0    [heap]
Size:               4096 kB
Rss:                1000 kB
7f0000000000-7f0001000000 rwxp 00000000 00:00 0
Size:              16384 kB
Rss:                 200 kB
7f0002000000-7f0002400000 r-xp 00000000 fe:00 17   /tmp/model.so
Size:               4096 kB
Rss:                  30 kB
"""


@pytest.fixture
def board_size():
    return importlib.import_module("board_size")


def test_generated_code_is_told_from_the_rest(board_size):
    assert board_size.resident(MAPS) == (1230 * 1024, 200 * 1024)


def test_the_peak_is_seen_even_if_it_is_short(board_size):
    script = "import time; x = bytearray(100_000_000); del x; time.sleep(0.3)"
    memory = board_size.watch([sys.executable, "-c", script])
    assert memory.peak > 100_000_000 > memory.running > 1_000_000


def test_a_program_that_fails_is_reported(board_size):
    with pytest.raises(SystemExit, match="exit status 3"):
        board_size.watch([sys.executable, "-c", "raise SystemExit(3)"])
