"""Quantized layers with open sizes multiply integers, as those of fixed sizes do."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.helper import make_node

import tvm_sparse
from tvm_sparse.cpu.integers import dot_products
from tvm_sparse.cpu.profile import native
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_onnx

DOTS = dot_products(native())
pytestmark = pytest.mark.skipif(
    DOTS is None or DOTS.per_word < 4, reason="this processor has no dot products of bytes"
)


def rounded(name, density, shape, rng):
    """Return a quantized weight, and the node that reads it."""
    scale, zero = f"{name}_s", f"{name}_z"
    values = (pruned(rng, shape, density) * 30).clip(-127, 127).astype("int8")
    tensors = {f"{name}_q": values, scale: np.float32(0.01), zero: np.int8(0)}
    return tensors, make_node("DequantizeLinear", [f"{name}_q", scale, zero], [name])


def write(path, shape, op_type, shapes, **options):
    """Write two layers whose inputs are rounded, and an addition between them."""
    rng = np.random.default_rng(0)
    tensors = {"s": np.float32(0.03), "z": np.uint8(120)}
    bias = rng.standard_normal(shapes[0][1 if op_type == "MatMul" else 0]).astype("float32")
    tensors["b"] = bias.reshape(-1, 1, 1) if op_type == "Conv" else bias
    nodes, x = [], "x"
    for i, weight_shape in enumerate(shapes):
        more, node = rounded(f"w{i}", (1.0, 0.6)[i], weight_shape, rng)
        tensors |= more
        nodes += [
            make_node("QuantizeLinear", [x, "s", "z"], [f"q{i}"]),
            make_node("DequantizeLinear", [f"q{i}", "s", "z"], [f"x{i}"]),
            node,
            make_node(op_type, [f"x{i}", f"w{i}"], [f"p{i}"], **options),
            make_node("Add", [f"p{i}", "b"], [f"a{i}"]),
            make_node("Relu", [f"a{i}"], [f"y{i}"]),
        ]
        x = f"y{i}"
    return write_onnx(path, nodes, {"x": shape}, [x], tensors, 13)


def check(path, engine, shapes):
    """Outputs are those of ONNX Runtime but for inputs that lie between two integers."""
    rng = np.random.default_rng(1)
    kernels = [layer.kernel for layer in engine.report.layers]
    assert kernels and all("int8" in kernel for kernel in kernels), kernels
    for shape in shapes:
        given = {"x": rng.standard_normal(shape).astype("float32")}
        (want,) = onnxruntime_outputs(path, given).values()
        (got,) = engine.run(given).values()
        differs = np.abs(got - want) > 1e-3
        assert differs.mean() < 0.01
        np.testing.assert_allclose(got, want, atol=0.05)


def test_tokens_of_any_number(tmp_path):
    shapes = (64, 96), (96, 96)
    path = write(tmp_path / "m.onnx", ["batch", "sequence", 64], "MatMul", shapes)
    sizes = [(1, 1, 64), (2, 3, 64), (1, 100, 64), (7, 130, 64), (1, 700, 64)]
    engine = tvm_sparse.compile(path, hints={"batch": 1, "sequence": 32})
    assert engine.inputs[0].shape == ("batch", "sequence", 64)
    check(path, engine, sizes)
    other = tvm_sparse.compile(path, hints={"batch": 8, "sequence": 512}, threads=3, columns="off")
    check(path, other, sizes)


def test_images_of_any_size(tmp_path):
    shapes = (32, 16, 3, 3), (32, 32, 3, 3)
    path = write(tmp_path / "w.onnx", ["n", 16, 8, "pixels"], "Conv", shapes, pads=[1] * 4)
    engine = tvm_sparse.compile(path, hints={"pixels": 100})
    check(path, engine, [(1, 16, 8, 7), (3, 16, 8, 33), (1, 16, 8, 120)])
    path = write(tmp_path / "m.onnx", ["n", 16, "rows", 20], "Conv", shapes, pads=[1] * 4)
    engine = tvm_sparse.compile(path, hints={"n": 1, "rows": 24})
    check(path, engine, [(1, 16, 1, 20), (3, 16, 7, 20), (1, 16, 90, 20), (20, 16, 24, 20)])
