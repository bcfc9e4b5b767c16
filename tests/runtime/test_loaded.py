"""Loaded libraries share their weights, free them, and are told from files that replace them."""

import copy
import gc
import logging
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.errors import ClosedError, LibraryError
from tvm_sparse.testing.models import write_onnx

N = 512
X = np.ones((4, N), "float32")


def write_library(path, factor=1.0):
    """Write a library that multiplies by `factor`, with 1 MB of weights."""
    weights = {"w": factor * np.eye(N, dtype="float32") + 1e-3}
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    model = write_onnx(path.with_suffix(".onnx"), nodes, {"x": [4, N]}, ["y"], weights)
    tvm_sparse.compile(model, threads=1).save(path)
    return path


def run(engine):
    return float(engine.run([X])["y"][0, 0])


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return write_library(tmp_path_factory.mktemp("one") / "one.so")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return write_library(tmp_path_factory.mktemp("two") / "two.so", 2.0)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def is_mapped(path):
    return os.fspath(path) in Path("/proc/self/maps").read_text()


class TestMemory:
    def test_engines_of_a_file_share_its_weights(self, one):
        engines = [tvm_sparse.load(one, threads=1)]
        run(engines[0])
        before = resident_bytes()
        for _ in range(20):
            engines.append(tvm_sparse.load(one, threads=1))
            assert run(engines[-1]) == run(engines[0])
        assert resident_bytes() - before < 10 * one.stat().st_size

    @pytest.mark.parametrize("is_closed", [True, False])
    def test_the_last_engine_frees_them(self, one, is_closed):
        def descriptors():
            return len(list(Path("/proc/self/fd").iterdir()))

        gc.collect()
        before = descriptors()
        engines = [tvm_sparse.load(one, threads=1) for _ in range(2)]
        run(engines[0])
        assert is_mapped(one)
        while engines:
            assert is_mapped(one)
            if is_closed:
                engines[-1].close()
            engines.pop()
        gc.collect()
        assert not is_mapped(one)
        assert descriptors() == before

    def test_threads_load_run_save_and_close_at_once(self, one, two, tmp_path):
        expected = [run(tvm_sparse.load(path, threads=1)) for path in (one, two)]
        wrong = []

        def serve(number):
            for i in range(8):
                which = (number + i) % 2
                with tvm_sparse.load((one, two)[which], threads=1) as engine:
                    if run(engine) != expected[which]:
                        wrong.append(which)
                    engine.save(tmp_path / f"{number}.so")

        threads = [threading.Thread(target=serve, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i}.so" for i in range(4)]


class TestReplacedFiles:
    """The system's loader would return the library that it knows by the path."""

    @pytest.fixture
    def path(self, one, tmp_path):
        (tmp_path / "model.so").write_bytes(one.read_bytes())
        return tmp_path / "model.so"

    def replace(self, path, other):
        (path.parent / "new.so").write_bytes(other.read_bytes())
        (path.parent / "new.so").rename(path)

    def test_a_load_sees_the_new_file_and_old_engines_keep_theirs(self, path, one, two):
        old = tvm_sparse.load(path, threads=1)
        self.replace(path, two)
        new = tvm_sparse.load(path, threads=1)
        assert run(old) == run(tvm_sparse.load(one, threads=1))
        assert run(new) == run(tvm_sparse.load(two, threads=1)) != run(old)

    def test_save_and_pickle_take_what_was_loaded(self, path, one, two, tmp_path):
        engine = tvm_sparse.load(path, threads=1)
        self.replace(path, two)
        engine.save(tmp_path / "saved.so")
        assert (tmp_path / "saved.so").read_bytes() == one.read_bytes()
        path.unlink()
        assert run(pickle.loads(pickle.dumps(engine))) == run(engine)

    def test_written_to_in_place(self, path, two):
        engine = tvm_sparse.load(path, threads=1)
        before = run(engine)
        os.utime(path, (1, 1))  # as if it had been written to
        with pytest.raises(LibraryError, match=r"model\.so: was overwritten while an engine"):
            tvm_sparse.load(path, threads=1)
        with pytest.raises(LibraryError, match="was overwritten after it was loaded"):
            pickle.dumps(engine)
        assert run(engine) == before


class TestPickle:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_of_a_file(self, one, protocol):
        engine = tvm_sparse.load(one, threads=1)
        twin = pickle.loads(pickle.dumps(engine, protocol))
        assert (run(twin), twin.threads, twin.info) == (run(engine), 1, engine.info)
        assert run(pickle.loads(pickle.dumps(twin))) == run(engine)

    def test_out_of_band(self, one):
        engine, buffers = tvm_sparse.load(one, threads=1), []
        small = pickle.dumps(engine, 5, buffer_callback=buffers.append)
        assert len(small) < 1000
        assert run(pickle.loads(small, buffers=buffers)) == run(engine)

    def test_of_a_compiled_model(self, compiled, x):
        for twin in (pickle.loads(pickle.dumps(compiled)), copy.deepcopy(compiled)):
            np.testing.assert_array_equal(twin.run([x])["y"], compiled.run([x])["y"])

    def test_what_is_no_library(self, one):
        engine = tvm_sparse.load(one, threads=1)
        restore, (content, *settings) = engine.__reduce_ex__(2)
        with pytest.raises(LibraryError, match="a pickled engine: truncated"):
            restore(content[:-100], *settings)


class TestClose:
    def test_later_calls_are_refused(self, one, tmp_path):
        engine = tvm_sparse.load(one, threads=1)
        with engine as same:
            assert same is engine
            run(engine)
        engine.close()
        for call in (lambda: run(engine), lambda: engine.save(tmp_path / "a.so")):
            with pytest.raises(ClosedError, match="the engine is closed"):
                call()
        with pytest.raises(ClosedError):
            pickle.dumps(engine)
        assert engine.inputs[0].name == "x"

    def test_while_other_threads_run(self, one):
        engine, ends = tvm_sparse.load(one, threads=1), []
        expected = run(engine)

        def serve():
            try:
                while True:
                    assert run(engine) == expected
            except ClosedError:
                ends.append("closed")

        threads = [threading.Thread(target=serve) for _ in range(4)]
        for thread in threads:
            thread.start()
        engine.close()
        for thread in threads:
            thread.join()
        assert ends == ["closed"] * 4

    def test_outputs_outlive_the_library(self, one):
        with tvm_sparse.load(one, threads=1) as engine:
            y = engine.run([X])["y"]
            kept = y.copy()
        gc.collect()
        assert not is_mapped(one)
        np.testing.assert_array_equal(y, kept)


def test_another_number_of_threads_is_noted_once(one, tmp_path, caplog):
    path = tmp_path / "noted.so"
    path.write_bytes(one.read_bytes())
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        tvm_sparse.load(path, threads=1)
        assert not caplog.records
        for _ in range(3):
            tvm_sparse.load(path, threads=2)
    (record,) = caplog.records
    assert "noted.so: compiled for threads=1 and loaded with threads=2" in record.getMessage()
