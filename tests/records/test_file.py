"""Tuning records: damage, merging, and which plan is the best."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.errors import RecordsError
from tvm_sparse.records import file
from tvm_sparse.records.file import Records
from tvm_sparse.records.record import Key, Record

KEY = Key("conv2d 3x3 32>32 @ 320x320, 5 %", "sapphirerapids", 2)
FAST, SLOW = (1.0, 1.1, 1.0, 1.05, 1.0), (2.0, 2.1, 2.0, 2.0, 2.0)


def record(rows, seconds=SLOW, turn="a", at=1.0, key=KEY, failure=""):
    return Record(key, {"column_rows": rows}, seconds, turn, failure, at)


def best_rows(*measured, key=KEY):
    return Records(measured).best(key).plan["column_rows"]


plans = st.dictionaries(st.text(max_size=9), st.integers() | st.text(max_size=9), max_size=3)
times = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=5).map(tuple)
keys = st.builds(Key, st.text(), st.text(), st.integers(1, 128))
timed = st.builds(
    Record, keys, plans, times, st.text(), st.just(""), st.floats(0, 1e10, allow_nan=False)
)
failed = st.builds(Record, keys, plans, st.just(()), st.text(), st.text(min_size=1), st.just(1.0))


class TestLines:
    @given(timed | failed)
    def test_round_trip(self, measured):
        line = measured.to_json()
        assert "\n" not in line
        again = Record.from_json(line)
        assert (again.key, again.plan, again.turn) == (measured.key, measured.plan, measured.turn)
        assert again.seconds == pytest.approx(measured.seconds, rel=1e-5)
        assert again.to_json() == line

    @settings(deadline=None)
    @given(timed | failed, st.data())
    def test_a_damaged_line_is_refused_or_whole(self, measured, data):
        line = measured.to_json()
        begin = data.draw(st.integers(0, len(line)))
        end = data.draw(st.integers(begin, len(line)))
        junk = data.draw(st.text(max_size=4))
        changed = line[:begin] + junk + line[end:]
        try:
            again = Record.from_json(changed)
        except ValueError as error:
            assert "damaged" in str(error) or "of version" in str(error)
        else:
            assert Record.from_json(again.to_json()).to_json() == again.to_json()

    @pytest.mark.parametrize(
        "change",
        [
            ("[1.0", "[NaN"),
            ("[1.0", "[-1.0"),
            ("[1.0", '["1"'),
            ('"threads": 2', '"threads": 2.5'),
            ('"plan": {', '"plan": {"x": null, '),
            ('"turn": "a"', '"turns": "a"'),
            ("[1.0]", "[]"),
            ("[1.0", f"[{10**400}"),
            ('"at": 1.0', f'"at": {10**400}'),
            ('"at": 1.0', '"at": ' + "1" * 5000),
        ],
    )
    def test_wrong_values(self, change):
        line = record(8, (1.0,)).to_json()
        assert change[0] in line
        with pytest.raises(ValueError, match="damaged"):
            Record.from_json(line.replace(*change))


class TestFiles:
    def test_append_and_read(self, tmp_path):
        path = tmp_path / "new" / "folder" / "records.jsonl"
        file.append(path, [record(8)])
        file.append(path, [record(16), record(4, (), failure="crashed")])
        found = file.read(path)
        assert [r.plan["column_rows"] for r in found.of(KEY)] == [8, 16, 4]
        assert len(found) == 3

    @settings(deadline=None)
    @given(cut=st.integers(0, 1000))
    def test_a_line_that_was_cut_off_costs_nothing_else(self, tmp_path_factory, cut):
        path = tmp_path_factory.mktemp("records") / "records.jsonl"
        file.append(path, [record(8)])
        whole = path.read_bytes()
        file.append(path, [record(16)])
        path.write_bytes(path.read_bytes()[: len(whole) + cut])
        file.append(path, [record(4)])
        found = [r.plan["column_rows"] for r in file.read(path).of(KEY)]
        assert found in ([8, 4], [8, 16, 4])

    @settings(deadline=None)
    @given(junk=st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1)), max_size=4))
    def test_damage_anywhere(self, tmp_path_factory, junk):
        path = tmp_path_factory.mktemp("records") / "records.jsonl"
        file.append(path, [record(rows) for rows in range(1, 30)])
        content = path.read_bytes()
        hit = set()
        for place, noise in junk:
            place %= len(content)
            hit.add(content[:place].count(b"\n"))
            content = content[:place] + noise.replace(b"\n", b"\r") + content[place:]
        path.write_bytes(content)
        found = {r.plan.get("column_rows") for r in file.read(path).of(KEY)}
        assert found >= {rows for rows in range(1, 30) if rows - 1 not in hit}

    def test_one_warning_says_which_line(self, tmp_path, caplog):
        path = tmp_path / "records.jsonl"
        other = record(16).to_json().replace('"version": 2', '"version": 7')
        path.write_text(f"{record(8).to_json()}\n{other}\nnonsense\n\xff\n", "latin-1")
        assert len(file.read(path)) == 1
        (message,) = [r.getMessage() for r in caplog.records]
        assert message == (
            f"{path}: line 2 is of version 7, and this tvm-sparse reads 2: tune again "
            "(and 2 other lines); the other 1 records are used"
        )

    def test_records_of_the_first_version_are_not_used(self, tmp_path, caplog):
        path = tmp_path / "records.jsonl"
        old = '{"version": 1, "region": "linear 8 > 8 @ 1x8 #0", "target": "x", "threads": 1, '
        path.write_text(
            f'{old}"plan": {{"lanes": 8}}, "seconds": [1.0], "turn": "a", "at": 1.0}}\n'
        )
        assert len(file.read(path)) == 0
        (message,) = [r.getMessage() for r in caplog.records]
        assert message == (
            f"{path}: line 1 is of version 1, and this tvm-sparse reads 2: tune again; "
            "the other 0 records are used"
        )
        file.append(path, [record(8)])
        assert len(file.read(path)) == 1

    def test_merging_is_cat(self, tmp_path):
        one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
        file.append(one, [record(8, turn="a"), record(16, FAST, "a")])
        file.append(two, [record(8, turn="b", at=2.0)])
        both = tmp_path / "both.jsonl"
        both.write_bytes(two.read_bytes() + one.read_bytes() + one.read_bytes())
        found = file.read(both)
        assert len(found) == 3
        assert found.best(KEY).plan == {"column_rows": 16}

    def test_many_writers(self, tmp_path):
        path = tmp_path / "records.jsonl"
        context = multiprocessing.get_context("spawn")
        with context.Pool(4) as pool:
            pool.starmap(file.append, [(path, [record(i)] * 3) for i in range(40)])
        assert len(path.read_text().splitlines()) == 120
        assert len(file.read(path)) == 40

    def test_missing(self, tmp_path):
        with pytest.raises(RecordsError, match=r"no\.jsonl: cannot be read: No such file"):
            file.read(tmp_path / "no.jsonl")

    def test_not_writable(self, tmp_path):
        with pytest.raises(RecordsError, match="cannot be written: it is a folder"):
            file.append(tmp_path, [record(8)])
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", Path("/dev/null")):
            with pytest.raises(RecordsError, match="it is a device or a pipe"):
                file.append(path, [record(8)])
            with pytest.raises(RecordsError, match="a device or a pipe"):
                file.read(path)

    def test_a_full_disk_keeps_what_was_there(self, tmp_path):
        path = tmp_path / "records.jsonl"
        file.append(path, [record(8)])
        before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        try:
            with pytest.raises(RecordsError, match="cannot be written: File too large"):
                file.append(path, [record(16)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before

    def test_no_file_of_records(self, tmp_path):
        for text in ("", record(8).to_json() + "\n"):
            (tmp_path / "a").write_text(text)
            file.check_file(tmp_path / "a")
        file.check_file(tmp_path / "no")
        (tmp_path / "a").write_text("buy milk\n")
        with pytest.raises(RecordsError, match="holds no tuning records; choose another name"):
            file.check_file(tmp_path / "a")
        with pytest.raises(RecordsError, match="is read; choose another name"):
            file.check_file(tmp_path / "a", [tmp_path / ".." / tmp_path.name / "a"])

    def test_the_users_data_folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert file.default_path() == tmp_path / "tvm-sparse" / "records.jsonl"
        file.append(file.default_path(), [record(8)])
        assert stat.S_ISREG(file.default_path().stat().st_mode)


class TestBest:
    def test_nothing(self):
        assert Records().best(KEY) is None
        assert Records([record(8, (), failure="timed out")]).best(KEY) is None

    def test_of_one_turn(self):
        assert best_rows(record(8), record(16, FAST), record(32, (1.5,) * 5)) == 16

    def test_the_first_of_a_turn_is_the_one_to_beat(self):
        """A plan that won a trial by luck does not win beside the default."""
        trial = [record(8), record(16, FAST, at=1.1)]
        last = [record(8, FAST, "b", 2.0), record(16, FAST, "b", 2.1)]
        assert best_rows(*trial) == 16
        assert best_rows(*trial, *last) == 8

    def test_noise_does_not_win(self):
        wins_three_of_five = (1.9, 1.9, 1.9, 2.2, 2.2)
        assert best_rows(record(8), record(16, wins_three_of_five)) == 8

    def test_a_slow_phase_of_the_machine_hits_both(self):
        phases = (1.0, 3.0, 1.0, 5.0, 2.0)
        faster = tuple(0.9 * s for s in phases)
        assert best_rows(record(8, phases), record(16, faster)) == 16

    def test_the_last_turn_decides_and_not_the_clock(self):
        """The second turn ran on a busy machine; the plans' order in it counts."""
        busy = tuple(10 * s for s in FAST)
        first = [record(8), record(16, FAST)]
        second = [record(16, busy, "b", 2.0), record(32, tuple(0.9 * s for s in busy), "b", 2.0)]
        assert best_rows(*first, *second) == 32
        assert best_rows(*second, *first) == 32

    def test_turns_with_no_plan_in_common(self):
        assert best_rows(record(8, FAST), record(16, SLOW, "b", 2.0)) == 8
        assert best_rows(record(8, SLOW), record(16, FAST, "b", 2.0)) == 16

    def test_another_key_never_serves(self):
        for key in (
            Key("x", KEY.target, 2),
            Key(KEY.structure, "x", 2),
            Key(KEY.structure, "x", 1),
        ):
            assert Records([record(8, key=key)]).best(KEY) is None

    def test_order_of_lines_does_not_matter(self):
        lines = [
            *(record(rows, SLOW, "a", 1.0 + rows / 10) for rows in (1, 2)),
            *(record(rows, FAST, "b", 2.0 + rows / 10) for rows in (2, 4)),
            *(record(rows, s, "c", 3.0 + rows / 10) for rows, s in ((2, SLOW), (8, FAST))),
        ]
        for seed in range(10):
            shuffled = random.Random(seed).sample(lines, len(lines))
            assert best_rows(*shuffled) == 8
