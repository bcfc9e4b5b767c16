"""Some mutants are tried, and the program that tries them notices what may not happen."""

import faulthandler
import os
import random
import resource
import signal
import time
from pathlib import Path

import onnx
import pytest

from tvm_sparse.testing.mutants import child, fields, graphs
from tvm_sparse.testing.mutants.__main__ import Runner
from tvm_sparse.testing.mutants.child import Ended
from tvm_sparse.testing.mutants.kinds import KINDS
from tvm_sparse.testing.mutants.outcomes import BAD, GOOD, REFUSED, RIGHT, outcome
from tvm_sparse.testing.mutants.seed_models import MODELS

COUNTS = {"models": 24, "libraries": 6, "arrays": 10}


@pytest.mark.slow
def test_mutants_are_right_or_refused(tmp_path):
    """CONTRIBUTING.md has the command that tries thousands."""
    runner = Runner(tmp_path)
    try:
        runner.prepare(records=False)
        for kind, count in COUNTS.items():
            for seed in range(count):
                runner.run(kind, seed)
    finally:
        runner.close()
    wrong = {case: found for case, found in runner.outcomes.items() if found.split(":")[0] in BAD}
    assert not wrong
    assert {found.split(":")[0] for found in runner.outcomes.values()} <= set(GOOD)
    for kind, count in COUNTS.items():
        counts = runner.counts(kind)
        assert sum(counts.values()) == count and counts[REFUSED] and counts[RIGHT]
    assert f"| models | {COUNTS['models']} |" in runner.table()


@pytest.mark.parametrize("name", MODELS)
def test_models_change_in_many_ways(name):
    original = MODELS[name]()
    for mutate in (fields.mutate, graphs.mutate):
        mutants = set()
        for seed in range(60):
            model = onnx.ModelProto()
            model.CopyFrom(original)
            mutate(random.Random(seed), model)
            mutants.add(model.SerializeToString(deterministic=True))
        assert len(mutants) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_mutant(kind):
    content = {
        "models": MODELS["shapes"]().SerializeToString(),
        "libraries": _library(),
        "records": b'{"version": 2, "plan": {"rows": 3}, "seconds": [0.1], "turn": "a"}\n' * 3,
        "arrays": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (5, 24)}   \n" + bytes(480),
    }[kind]
    mutate = KINDS[kind].mutate
    first, again = ([mutate(random.Random(seed), content) for seed in range(50)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 30


def _library():
    import struct

    code, text = b"\x7fELF" + bytes(60), b'{"inputs": [{"name": "x", "shape": [2]}], "threads": 1}'
    return code + text + struct.pack("<QII8s", len(code), len(text), 0, b"tvmsprs2")


@pytest.mark.parametrize(
    ("ended", "kind"),
    [
        (Ended(0, "verified against", "warning: dense\n", ()), "right"),
        (Ended(0, "not verified: no", "", ()), "right, not compared"),
        (Ended(2, "", "warning: dense\nerror: x: no shape; give it\n", ()), "refused"),
        (Ended(-signal.SIGSEGV, "", "", ()), "crash"),
        (Ended(-signal.SIGXCPU, "", "", ()), "hang"),
        (Ended(2, "", "Traceback (most recent call last):\n...\nKeyError: 3\n", ()), "traceback"),
        (Ended(2, "", "error: KeyError 3; please report it, with\n", ()), "report"),
        (Ended(0, "", "warning: node is wrong. please report it\n", ()), "report"),
        (Ended(2, "", "error: a\n", ("tmp/x",)), "leftover"),
        (Ended(2, "", "error: a\nerror: b\n", ()), "unclear"),
        (Ended(1, "", "error: a\n", ()), "unclear"),
        (Ended(2, "", "error: a\nmore\n", ()), "unclear"),
        (Ended(0, "", "error: a\n", ()), "unclear"),
    ],
)
def test_outcomes(ended, kind):
    assert outcome(ended).split(":")[0] == kind


def test_children_are_watched(tmp_path, monkeypatch):
    def crash():
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)

    def work():
        print("said")
        return resource.getrlimit(resource.RLIMIT_DATA)[0] // child.GB

    assert child.forked(work, tmp_path) == (6, "said\n", "")
    assert child.forked(crash, tmp_path)[0] == -signal.SIGSEGV
    status, _, err = child.forked(lambda: int("no number"), tmp_path)
    assert status == 99 and "Traceback" in err
    monkeypatch.setattr(child, "SECONDS", 1)
    monkeypatch.setattr(child, "_SECONDS_ON_CLOCK", 3)
    assert child.forked(lambda: sum(iter(int, 1)), tmp_path)[0] == -signal.SIGXCPU
    assert child.forked(lambda: time.sleep(60), tmp_path)[0] == -signal.SIGXCPU


def test_what_the_program_leaves_behind_is_found(tmp_path, monkeypatch):
    def leave(_):
        Path("tmp/left").touch()
        Path("out.so").touch()
        return 0

    monkeypatch.setattr(child.main, "main", leave)
    assert child.run([], tmp_path).left == ("tmp/left",)
