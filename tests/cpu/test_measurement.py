import dataclasses
import json
import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.cli import main
from tvm_sparse.cpu import probe
from tvm_sparse.cpu.measurement import CpuMeasurement, load, plateaus, store
from tvm_sparse.cpu.memory_system import estimate
from tvm_sparse.cpu.profile import native
from tvm_sparse.cpu.this_machine import cpu_name
from tvm_sparse.errors import OutputError, TargetError

SYSTEM = estimate(3.8, 51.2, 256, 2, has_l3=True)
MEASURED = CpuMeasurement("Some CPU @ 2.0 GHz", 2, (32 << 10, 1 << 20, 20 << 20), SYSTEM)


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path


def curve(sizes, caches, rates, noise=0.0):
    """Return bandwidths that fall from level to level between 0.7 and 1.4 times a cache's size."""
    result = np.full(len(sizes), rates[0])
    for cache, here, there in zip(caches, rates[:-1], rates[1:], strict=True):
        share = np.clip((np.array(sizes) / cache - 0.7) / 0.7, 0, 1)
        result = 1 / ((1 - share) / result + share * (1 / there))
        assert here > there
    wobble = np.random.default_rng(0).uniform(1 - noise, 1, len(sizes))
    return result * wobble


@given(
    steps=st.lists(st.floats(1.6, 6), min_size=2, max_size=3),
    caches=st.tuples(st.floats(15, 17.5), st.floats(20, 21.5), st.floats(24, 26)),
    noise=st.floats(0, 0.08),
)
def test_levels_are_found_in_curves(steps, caches, noise):
    sizes = [8192 * 2 ** (i / 2) for i in range(33)]
    caches = [2**cache for cache in caches[: len(steps)]]
    rates = 300 / np.cumprod([1, *steps])
    found = plateaus(sizes, curve(sizes, caches, rates, noise))
    assert len(found) == len(rates)
    for level, rate, cache in zip(found, rates, [*caches, math.inf], strict=True):
        assert level.rate == pytest.approx(rate, rel=0.15)
        assert level.size == cache or cache * 0.6 < level.size < cache * 1.6
    assert [level.end for level in found[:-1]] == [level.first for level in found[1:]]


def test_a_level_curve_has_one_level():
    (only,) = plateaus([1, 2, 4, 8, 16, 32], [5, 5.1, 5, 4.9, 5, 5])
    assert only.rate == pytest.approx(5) and only.size == math.inf


def test_what_is_stored_is_loaded(data_home):
    assert load(MEASURED.cpu, 2) is None
    path = store(MEASURED)
    assert path == data_home / "tvm-sparse" / "cpus" / "some-cpu-2-0-ghz-2.json"
    assert load(MEASURED.cpu, 2) == MEASURED
    assert load(MEASURED.cpu, 1) is None and load("Another", 2) is None
    assert list(path.parent.iterdir()) == [path]


def break_json(text):
    return text[: len(text) // 2]


def older(text):
    return text.replace('"version": 1', '"version": 0')


def without_clock(text):
    return json.dumps({k: v for k, v in json.loads(text).items() if k != "system"})


def no_rate(text):
    fields = json.loads(text)
    fields["system"]["l2"]["read"] = 0
    return json.dumps(fields)


def no_object(text):
    return "[1, 2]"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (break_json, "damaged"),
        (older, "of version 0, this tvm_sparse reads 1"),
        (without_clock, "damaged"),
        (no_rate, "damaged"),
        (no_object, "damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_warning(change, says, caplog):
    path = store(MEASURED)
    path.write_text(change(path.read_text()))
    with caplog.at_level(logging.WARNING):
        assert load(MEASURED.cpu, 2) is None
    (record,) = caplog.records
    message = record.getMessage()
    assert str(path) in message and says in message and "targets --measure" in message


def test_a_folder_that_cannot_be_made(data_home):
    (data_home / "tvm-sparse").write_text("a file")
    with pytest.raises(OutputError, match="cannot be made"):
        store(MEASURED)


def test_the_native_profile_uses_what_is_stored():
    before = native.__wrapped__()
    assert before.measured is None
    measured = dataclasses.replace(MEASURED, cpu=cpu_name(), cores=before.cores, system=SYSTEM)
    store(measured)
    after = native.__wrapped__()
    assert after.memory_system == SYSTEM and after.l3_bytes == 20 << 20
    assert (after.l1_bytes, after.l2_bytes) == (before.l1_bytes, before.l2_bytes)
    assert "measured" in after.about


@pytest.fixture
def loops():
    return probe.Probe(native(), 1 << 20)


def test_every_core_reads_all_of_its_part(loops, monkeypatch):
    monkeypatch.setattr(probe, "_TURN_SECONDS", 0.0)
    monkeypatch.setattr(probe, "_TURN_BYTES", 0)
    cores, lanes = native().cores, native().vector_lanes()
    assert 0 < loops.rate(100_000, cores, copies=False) < math.inf
    floats = 100_000 // (32 * lanes) * 8 * lanes
    sums = loops._sums.numpy().reshape(cores, lanes)
    np.testing.assert_array_equal(sums, floats // lanes)


def test_a_copy_moves_half_of_a_part_to_the_other(loops, monkeypatch):
    monkeypatch.setattr(probe, "_TURN_SECONDS", 0.0)
    x = np.random.default_rng(0).random(loops._array.shape[0], "float32")
    loops._array.copyfrom(x)
    assert 0 < loops.rate(100_000, 1, copies=True) < math.inf
    unit = 8 * native().vector_lanes()
    half = 50_000 // 4 // unit * unit
    after = loops._array.numpy()
    np.testing.assert_array_equal(after[half : 2 * half], x[:half])
    np.testing.assert_array_equal(
        np.delete(after, np.s_[half : 2 * half]), np.delete(x, np.s_[half : 2 * half])
    )


def test_too_few_levels_are_an_error():
    flat = plateaus([1, 2, 4, 8, 16, 32], [5.0] * 6)
    with pytest.raises(TargetError, match=r"shows 1 levels \(0.0 GB/s\), not L1, L2 and memory"):
        probe._check(flat)


def test_the_command_shows_and_stores(monkeypatch, capsys):
    monkeypatch.setattr(probe, "measure", lambda progress: MEASURED)
    assert main.main(["targets", "--measure"]) == 0
    out = capsys.readouterr().out
    assert "memory" in out and "3.80 GHz" in out and "some-cpu-2-0-ghz-2.json" in out
    assert load(MEASURED.cpu, 2) == MEASURED
    assert main.main(["targets", "--measure", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cache_bytes"] == [32 << 10, 1 << 20, 20 << 20]
