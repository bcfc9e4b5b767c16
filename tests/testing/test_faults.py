"""Writes and allocations that fail end in one clear line, with the old file whole."""

import shutil

import pytest

from tvm_sparse.testing.faults.__main__ import Runner, table


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    if not (shutil.which("gcc") or shutil.which("cc")):
        pytest.skip("no C compiler")
    runner = Runner(tmp_path_factory.mktemp("faults"))
    yield runner
    runner.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "kind", "runs"),
    [("save", "files", 30), ("save", "memory", 30), ("compile", "files", 12)],
)
def test_every_fault_is_clear(runner, verb, kind, runs):
    """CONTRIBUTING.md has the command that tries more of them."""
    found = runner.run(verb, kind, runs)
    assert set(found) <= {"calls", "done", "error"}
    assert found["calls"] >= 10 and found["error"] >= 3
    assert f"| {verb} | {kind} | {found['calls']:,} |" in table({(verb, kind): found})
