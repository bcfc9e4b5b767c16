"""A process that only runs libraries does not load TVM's compiler."""

import subprocess
import sys

import numpy as np
from onnx import TensorProto
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.testing.models import write_onnx

PROGRAM = """
import pickle, sys
import numpy as np
import tvm_sparse

path, inputs, outputs, copy = sys.argv[1:]
engine = tvm_sparse.load(path, threads=1)
x = np.load(inputs)
(y,) = engine.run([x]).values()
np.save(outputs, y)
engine.save(copy)
pickled = pickle.loads(pickle.dumps(engine))
try:
    engine.run([x + 1000])
except tvm_sparse.TvmSparseError as error:
    print(type(error).__name__, error)
assert not {"tvm", "onnx", "onnxruntime"} & sys.modules.keys(), "more is imported than is needed"

compiled = tvm_sparse.compile(path[:-3] + ".onnx", threads=1)
assert "tvm" in sys.modules
for one in (engine, pickled, compiled, tvm_sparse.load(copy, threads=1)):
    assert np.array_equal(*one.run([x]).values(), y)
"""


def test_running_a_library_loads_no_compiler_and_compiling_one_does(tmp_path):
    table = np.random.default_rng(0).standard_normal((100, 64)).astype("float32")
    nodes = [
        make_node("Cast", ["x"], ["numbers"], to=TensorProto.INT64),
        make_node("Gather", ["table", "numbers"], ["rows"]),
        make_node("TopK", ["rows", "five"], ["y", "places"], axis=-1),
    ]
    weights = {"table": table, "five": np.array([5])}
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": [1, 7]}, ["y"], weights)
    tvm_sparse.compile(path, threads=1).save(tmp_path / "m.so")
    x = np.array([[3, 1, 4, 1, 5, 9, 99]], "float32")
    np.save(tmp_path / "x.npy", x)
    names = ("m.so", "x.npy", "y.npy", "copy.so")
    command = [sys.executable, "-c", PROGRAM, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = table[x.astype(int)]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), -np.sort(-rows)[..., :5])
    assert (tmp_path / "copy.so").read_bytes() == (tmp_path / "m.so").read_bytes()
    assert done.stdout.startswith("InputError with these inputs an index is out of range")


RUN = """
import sys
from tvm_sparse.cli import main

assert main.main(["run", sys.argv[1], "--input", f"x={sys.argv[2]}", "-o", sys.argv[3]]) == 0
assert not {"tvm", "onnx", "onnxruntime"} & sys.modules.keys(), "more is imported than is needed"
"""


def test_the_program_that_runs_a_library_loads_no_compiler(tmp_path):
    path = write_onnx(tmp_path / "m.onnx", [make_node("Relu", ["x"], ["y"])], {"x": [4]}, ["y"], {})
    tvm_sparse.compile(path, threads=1).save(tmp_path / "m.so")
    np.save(tmp_path / "x.npy", np.array([-1, 2, -3, 4], "float32"))
    names = ("m.so", "x.npy", "y.npz")
    command = [sys.executable, "-c", RUN, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], [0, 2, 0, 4])
