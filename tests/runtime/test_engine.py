"""The engine: numbers, checks of the inputs, threads, and libraries that survive a round trip."""

import gc
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node
from tvm import relax

import tvm_sparse
from tvm_sparse import compiler, testing
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.errors import InputError, LibraryError, TargetError
from tvm_sparse.runtime.library import LibraryInfo
from tvm_sparse.specs import TensorSpec

SHAPE = (1, 20, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def model(folder):
    return testing.write_mlp(folder / "mlp.onnx")


@pytest.fixture(scope="module")
def compiled(model):
    return tvm_sparse.compile(model, {"x": SHAPE}, threads=2)


@pytest.fixture(scope="module")
def saved(compiled, folder):
    compiled.save(folder / "mlp.so")
    return folder / "mlp.so"


@pytest.fixture(scope="module")
def loaded(saved):
    return tvm_sparse.load(saved, threads=2)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal(SHAPE).astype("float32")


@pytest.fixture
def y(model, x):
    return testing.onnxruntime_outputs(model, {"x": x})["y"]


class TestRun:
    def test_agrees_with_onnxruntime(self, compiled, loaded, x, y):
        for each in (compiled, loaded):
            outputs = each.run({"x": x})
            assert list(outputs) == ["y"]
            np.testing.assert_allclose(outputs["y"], y, atol=1e-4 * np.abs(y).max())

    def test_inputs_in_order(self, compiled, x, y):
        np.testing.assert_allclose(compiled.run([x])["y"], y, atol=1e-4 * np.abs(y).max())

    def test_any_memory_layout(self, compiled, x, y):
        readonly = x.copy()
        readonly.setflags(write=False)
        strided = np.repeat(x, 2, axis=2)[..., ::2]
        arrays = [
            testing.at_offset(x, 0),
            testing.at_offset(x, 4),
            readonly,
            strided,
            np.asfortranarray(x),
        ]
        for array in arrays:
            actual = compiled.run({"x": array})["y"]
            np.testing.assert_allclose(actual, y, atol=1e-4 * np.abs(y).max())

    def test_outputs_belong_to_the_caller(self, compiled, x):
        first = compiled.run({"x": x})["y"]
        kept = first.copy()
        second = compiled.run({"x": 2 * x})["y"]
        second[...] = 0
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(compiled.run({"x": x})["y"], kept)

    def test_describes_itself(self, loaded):
        assert loaded.inputs == (TensorSpec("x", SHAPE, "float32"),)
        assert loaded.outputs == (TensorSpec("y", (1, 20, 48), "float32"),)
        assert "x float32[1, 20, 32] -> y float32[1, 20, 48]" in repr(loaded)


def test_outputs_that_are_inputs_or_weights_are_copied(tmp_path):
    nodes = [
        make_node("Identity", ["w"], ["constant"]),
        make_node("Reshape", ["x", "shape"], ["view"]),
        make_node("Relu", ["x"], ["same"]),
        make_node("Relu", ["x"], ["again"]),
    ]
    weights = {"w": np.ones(32, "float32"), "shape": np.array([16])}
    outputs = ["constant", "view", "same", "again"]
    path = testing.write_onnx(tmp_path / "a.onnx", nodes, {"x": [4, 4]}, outputs, weights)
    compiled = tvm_sparse.compile(path, threads=1)
    assert compiled.info.constant_outputs == ("constant",)
    x = testing.at_offset(np.ones((4, 4), "float32"), 0)
    first = compiled.run([x])
    for array in first.values():
        array *= 5
    np.testing.assert_array_equal(x, 1)
    for array in compiled.run([x]).values():
        np.testing.assert_array_equal(array, 1)
    np.testing.assert_array_equal(first["again"], 5)


class TestBadInputs:
    def check(self, compiled, inputs, message):
        with pytest.raises(InputError, match=message):
            compiled.run(inputs)

    def test_unknown_name(self, compiled, x):
        self.check(compiled, {"x": x, "xx": x}, r"unknown input 'xx': did you mean 'x'\?.*are x")

    def test_missing(self, compiled):
        self.check(compiled, {}, r"missing input 'x': expected x float32\[1, 20, 32\]")

    def test_number(self, compiled, x):
        self.check(compiled, [x, x], r"expected 1 inputs \(x\), got 2")

    def test_shape(self, compiled, x):
        message = r"input 'x': expected shape \(1, 20, 32\), got \(1, 19, 32\)"
        self.check(compiled, {"x": x[:, 1:]}, message)

    def test_dtype(self, compiled, x):
        message = "input 'x': expected dtype float32, got float64; convert it"
        self.check(compiled, {"x": x.astype("float64")}, message)

    def test_no_array(self, compiled):
        self.check(compiled, {"x": "text"}, "expected dtype float32, got <U4")

    @pytest.mark.parametrize("threads", [0, -1])
    def test_threads(self, model, saved, threads):
        with pytest.raises(InputError, match="threads must be at least 1"):
            tvm_sparse.compile(model, {"x": SHAPE}, threads=threads)
        with pytest.raises(InputError, match="threads must be at least 1"):
            tvm_sparse.load(saved, threads=threads)

    def test_target(self, model):
        with pytest.raises(TargetError, match="unknown target 'haswel': did you mean 'haswell'"):
            tvm_sparse.compile(model, {"x": SHAPE}, target="haswel")


class TestThreads:
    def test_the_kernels_know_how_many(self, model, monkeypatch):
        seen = []
        from_target = CpuProfile.from_target

        def spy(target):
            seen.append(from_target(target))
            return seen[-1]

        monkeypatch.setattr(CpuProfile, "from_target", spy)
        tvm_sparse.compile(model, {"x": SHAPE}, target="haswell", threads=3)
        assert {(cpu.name, cpu.cores) for cpu in seen} == {("haswell", 3)}

    def test_many_python_threads_may_call(self, loaded, x, y):
        wrong = []

        def call(scale):
            for _ in range(20):
                outputs = loaded.run({"x": scale * x})["y"]
                expected = loaded.run({"x": scale * x})["y"]
                if not np.array_equal(outputs, expected):
                    wrong.append(scale)

        threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_engine_has_exactly_its_threads(self, saved, x):
        script = (
            "import os, sys, threading, time, numpy as np, tvm_sparse\n"
            "def tasks(): return len(os.listdir('/proc/self/task'))\n"
            "x = np.zeros((1, 20, 32), 'float32')\n"
            "engine = tvm_sparse.load(sys.argv[1], threads=3)\n"
            "before = tasks()\n"
            "calls = [threading.Thread(target=engine.run, args=([x],)) for _ in range(5)]\n"
            "[call.start() for call in calls]; [call.join() for call in calls]\n"
            "patience = time.monotonic() + 30  # a joined thread may take a moment to end\n"
            "while tasks() - before > 3 and time.monotonic() < patience: time.sleep(0.01)\n"
            "print(tasks() - before)\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, saved], capture_output=True, text=True, check=True
        )
        assert result.stdout.split() == ["3"]

    def test_idle_workers_sleep(self, saved, x):
        code = (
            "import sys, time, numpy as np, tvm_sparse\n"
            "engine = tvm_sparse.load(sys.argv[1], threads=3)\n"
            "engine.run([np.zeros((1, 20, 32), 'float32')])\n"
            "before = time.process_time()\n"
            "time.sleep(0.3)\n"
            "print(time.process_time() - before)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True
        )
        assert float(done.stdout) < 0.03  # of computing, by all threads

    def test_threads_end_with_the_engine(self, saved, x):
        def tasks():
            return set(Path("/proc/self/task").iterdir())

        before = tasks()
        temporary = tvm_sparse.load(saved, threads=2)
        output = temporary.run([x])["y"]
        started = tasks() - before
        assert len(started) == 2
        del temporary
        deadline = time.monotonic() + 30
        while started & tasks() and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        assert not started & tasks()
        assert np.isfinite(output).all()


class TestLibrary:
    def test_needs_no_model(self, model, saved, x, tmp_path):
        moved = tmp_path / "moved.so"
        moved.write_bytes(saved.read_bytes())
        script = (
            "import sys, numpy as np, tvm_sparse\n"
            "x = np.load(sys.argv[2]); y = tvm_sparse.load(sys.argv[1]).run([x])['y']\n"
            "np.save(sys.argv[2], y)\n"
        )
        np.save(tmp_path / "x.npy", x)
        command = [sys.executable, "-c", script, moved, tmp_path / "x.npy"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert result.stdout + result.stderr == ""
        expected = testing.onnxruntime_outputs(model, {"x": x})["y"]
        actual = np.load(tmp_path / "x.npy")
        np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())

    def test_saving_prints_nothing_and_leaves_one_file(self, compiled, tmp_path, capfd):
        compiled.save(tmp_path / "a.so")
        assert [path.name for path in tmp_path.iterdir()] == ["a.so"]
        assert capfd.readouterr() == ("", "")

    def test_info_survives_json(self, compiled):
        assert LibraryInfo.from_json(compiled.info.to_json()) == compiled.info

    def test_a_loaded_engine_saves_too(self, loaded, saved, tmp_path):
        loaded.save(tmp_path / "again.so")
        assert (tmp_path / "again.so").read_bytes() == saved.read_bytes()

    def test_not_writable(self, compiled, tmp_path):
        with pytest.raises(LibraryError, match=r"cannot be written: No such file or directory"):
            compiled.save(tmp_path / "no" / "a.so")
        with pytest.raises(LibraryError, match="cannot be written"):
            compiled.save(tmp_path)

    def test_a_failed_save_keeps_the_old_file(self, compiled, tmp_path, monkeypatch):
        path = tmp_path / "a.so"
        path.write_text("old")
        monkeypatch.setenv("CXX", "/bin/false")
        with pytest.raises(LibraryError, match="/bin/false: cannot link"):
            compiled.save(path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_missing(self, tmp_path):
        with pytest.raises(LibraryError, match="cannot be read: No such file"):
            tvm_sparse.load(tmp_path / "no.so")

    def test_not_a_library(self, model):
        with pytest.raises(LibraryError, match="not a compiled library"):
            tvm_sparse.load(model)

    def test_truncated_anywhere(self, saved, tmp_path):
        whole = saved.read_bytes()
        cut = tmp_path / "cut.so"
        for length in np.linspace(5, len(whole) - 1, 25).astype(int):
            cut.write_bytes(whole[:length])
            with pytest.raises(LibraryError, match="truncated"):
                tvm_sparse.load(cut)

    def test_another_machine(self, saved, tmp_path):
        content = bytearray(saved.read_bytes())
        machine = {62: 183, 183: 62}[content[18]]
        content[18] = machine
        (tmp_path / "other.so").write_bytes(content)
        name = {62: "x86_64", 183: "aarch64"}[machine]
        with pytest.raises(LibraryError, match=f"built for {name}, and this machine is"):
            tvm_sparse.load(tmp_path / "other.so")

    def test_foreign(self, tmp_path):
        source = tmp_path / "foreign.c"
        source.write_text("int answer(void) { return 42; }\n")
        library = tmp_path / "foreign.so"
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
        with pytest.raises(LibraryError, match="not a library that tvm-sparse compiled"):
            tvm_sparse.load(library)

    def test_a_processor_that_lacks_something(self, saved, monkeypatch):
        read = LibraryInfo.from_json
        demanding = {"instruction_sets": ("avx2", "avx1024"), "cpu": "futurelake"}
        monkeypatch.setattr(LibraryInfo, "from_json", lambda text: replace(read(text), **demanding))
        with pytest.raises(LibraryError, match=r"built for futurelake.*lacks avx1024.*native"):
            tvm_sparse.load(saved)


class TestRelaxModule:
    def test_compiles(self):
        w = testing.pruned(np.random.default_rng(0), (32, 48), 0.1)
        mod = testing.dataflow(lambda emit, x: emit(relax.op.matmul(x, relax.const(w))), (20, 32))
        compiled = tvm_sparse.compile(mod, threads=1)
        assert [str(spec) for spec in compiled.inputs] == ["x0 float32[20, 32]"]
        x = np.random.default_rng(1).standard_normal((20, 32)).astype("float32")
        np.testing.assert_allclose(compiled.run([x])["output_0"], x @ w, atol=1e-4)

    def test_takes_no_shapes(self):
        mod = testing.dataflow(lambda emit, x: emit(relax.op.nn.relu(x)), (4,))
        with pytest.raises(InputError, match="shapes= is for ONNX files"):
            compiler.compile(mod, {"x0": (4,)})
