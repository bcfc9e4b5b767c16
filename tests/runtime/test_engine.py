"""The engine: numbers, checks of the inputs, and threads."""

import gc
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node
from tvm import relax

import tvm_sparse
from tvm_sparse import compiler
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.errors import InputError, RunError, TargetError
from tvm_sparse.runtime.machine import Machine
from tvm_sparse.specs import TensorSpec
from tvm_sparse.testing.kernels import at_offset
from tvm_sparse.testing.models import dataflow, pruned, write_onnx

SHAPE = (1, 20, 32)


class TestRun:
    def test_agrees_with_onnxruntime(self, compiled, loaded, x, y):
        for each in (compiled, loaded):
            outputs = each.run({"x": x})
            assert list(outputs) == ["y"]
            np.testing.assert_allclose(outputs["y"], y, atol=1e-4 * np.abs(y).max())

    def test_inputs_in_order(self, compiled, x, y):
        np.testing.assert_allclose(compiled.run([x])["y"], y, atol=1e-4 * np.abs(y).max())

    def test_one_input_needs_neither_a_name_nor_a_list(self, compiled, x):
        expected = compiled.run({"x": x})["y"]
        for got in (compiled.run(x), compiled.run(x=x), compiled(x), compiled(x=x)):
            np.testing.assert_array_equal(got["y"], expected)
        np.testing.assert_array_equal(compiled.submit(x=x).result()["y"], expected)

    def test_inputs_in_two_ways(self, compiled, x):
        with pytest.raises(InputError, match="both by name and without one"):
            compiled.run(x, x=x)
        with pytest.raises(InputError, match="missing input 'x'"):
            compiled()

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (iter([1]), "a dict of arrays by name, or a list"),
            ("x", "a dict of arrays by name, or a list"),
            (np.zeros(SHAPE, "int64"), "expected dtype float32, got int64"),
            ({0: 1}, "unknown input 0"),
            ({"x": [[1, 2], [3]]}, "input 'x': not an array"),
            ({"x": object()}, "expected dtype float32, got object"),
            ({"x": np.zeros(SHAPE, ">f4")}, "expected dtype float32, got >f4"),
            ({"x": np.zeros(SHAPE, "float32").tolist()}, "expected dtype float32, got float64"),
            ({"x": np.zeros((1, 1, *SHAPE), "float32")}, "expected shape"),
            ({"x": np.ma.masked_array(np.zeros(SHAPE, "float32"), True)}, "a masked array"),
        ],
    )
    def test_inputs_that_are_none(self, compiled, inputs, message):
        with pytest.raises(InputError, match=message):
            compiled.run(inputs)

    def test_an_index_out_of_range(self, tmp_path):
        ids = [make_node("Cast", ["x"], ["ids"], to=7), make_node("Gather", ["t", "ids"], ["y"])]
        table = np.arange(12, dtype="float32").reshape(6, 2)
        write_onnx(tmp_path / "g.onnx", ids, {"x": [2]}, ["y"], {"t": table})
        engine = tvm_sparse.compile(tmp_path / "g.onnx")
        for wrong in (6, -7, 1e9):
            with pytest.raises(InputError, match="with these inputs an index is out of range"):
                engine.run([np.array([0, wrong], "float32")])
        y = engine.run([np.array([5, -1], "float32")])["y"]
        np.testing.assert_array_equal(y, table[[5, 5]])

    def test_what_fails_below_is_one_error_with_its_cause(self, compiled, x, monkeypatch):
        def fail(*arguments):
            raise MemoryError

        monkeypatch.setattr(Machine, "run", fail)
        with pytest.raises(RunError, match="there is not enough memory") as error:
            compiled.run({"x": x})
        assert isinstance(error.value.__cause__, MemoryError)

    def test_any_memory_layout(self, compiled, x, y):
        readonly = x.copy()
        readonly.setflags(write=False)
        strided = np.repeat(x, 2, axis=2)[..., ::2]
        arrays = [
            at_offset(x, 0),
            at_offset(x, 4),
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
    path = write_onnx(tmp_path / "a.onnx", nodes, {"x": [4, 4]}, outputs, weights)
    compiled = tvm_sparse.compile(path, threads=1)
    assert compiled.info.constant_outputs == ("constant",)
    x = at_offset(np.ones((4, 4), "float32"), 0)
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

    @pytest.mark.parametrize("threads", [1.5, "2", True])
    def test_threads_that_are_no_number(self, model, threads):
        with pytest.raises(InputError, match="threads must be a whole number"):
            tvm_sparse.compile(model, {"x": SHAPE}, threads=threads)

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


class TestRelaxModule:
    def test_compiles(self):
        w = pruned(np.random.default_rng(0), (32, 48), 0.1)
        mod = dataflow(lambda emit, x: emit(relax.op.matmul(x, relax.const(w))), (20, 32))
        compiled = tvm_sparse.compile(mod, threads=1)
        assert [str(spec) for spec in compiled.inputs] == ["x0 float32[20, 32]"]
        x = np.random.default_rng(1).standard_normal((20, 32)).astype("float32")
        np.testing.assert_allclose(compiled.run([x])["output_0"], x @ w, atol=1e-4)

    def test_takes_no_shapes(self):
        mod = dataflow(lambda emit, x: emit(relax.op.nn.relu(x)), (4,))
        with pytest.raises(InputError, match="shapes= is for ONNX files"):
            compiler.compile(mod, {"x0": (4,)})
