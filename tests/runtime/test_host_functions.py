"""What NumPy computes inside of a library, in a process that loads TVM's runtime alone."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.testing.models import onnxruntime_outputs, write_onnx

X = np.random.default_rng(0).integers(-1, 2, (5, 3)).astype("float32")

RUN = """
import sys
import numpy as np
import tvm_sparse

library, inputs, outputs = sys.argv[1:]
np.savez(outputs, **tvm_sparse.load(library, threads=1).run({"x": np.load(inputs)}))
assert "tvm" not in sys.modules
"""


def model(path, nodes, outputs):
    weights = {"picked": np.array([True, False, True])}
    path = write_onnx(path, nodes, {"x": list(X.shape)}, list(outputs), weights)
    proto = onnx.load(path)
    for value in proto.graph.output:
        value.ClearField("type")
    onnx.save(proto, path)
    return path


def test_a_process_without_the_compiler(tmp_path):
    nodes = [
        make_node("NonZero", ["x"], ["places"]),
        make_node("Compress", ["x", "picked"], ["columns"], axis=1),
        make_node("Unique", ["x"], ["values"]),
    ]
    outputs = ("places", "columns", "values")
    path = model(tmp_path / "m.onnx", nodes, outputs)
    tvm_sparse.compile(path, fallback="off", threads=1).save(tmp_path / "m.so")
    np.save(tmp_path / "x.npy", X)
    names = ("m.so", "x.npy", "y.npz")
    command = [sys.executable, "-c", RUN, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "y.npz")
    for name, expected in onnxruntime_outputs(path, {"x": X}).items():
        np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize("options", [{}, {"axis": 0}, {"axis": -1}], ids=str)
@pytest.mark.parametrize("in_order", [0, 1])
@pytest.mark.parametrize("outputs", ["vfpc", "v", "vp", "vc"])
def test_unique(tmp_path, options, in_order, outputs):
    """The places of all values are in one row, whatever their shape is."""
    names = [name if name in outputs else "" for name in "vfpc"]
    node = make_node("Unique", ["x"], names, sorted=in_order, **options)
    path = model(tmp_path / "m.onnx", [node], outputs)
    found = tvm_sparse.compile(path, fallback="off", threads=1).run({"x": X})
    for name, expected in onnxruntime_outputs(path, {"x": X}).items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_nothing_is_found(tmp_path):
    nodes = [make_node("NonZero", ["x"], ["places"]), make_node("Transpose", ["places"], ["rows"])]
    path = model(tmp_path / "m.onnx", nodes, ("places", "rows"))
    found = tvm_sparse.compile(path, fallback="off", threads=1).run({"x": np.zeros_like(X)})
    assert found["places"].shape == (2, 0)
    assert found["rows"].shape == (0, 2)
