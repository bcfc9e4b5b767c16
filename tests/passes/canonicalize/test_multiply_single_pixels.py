"""Convolutions of single pixels as products."""

import numpy as np
import pytest
import tvm
from onnx.helper import make_node
from tvm import relax

import tvm_sparse
from tvm_sparse.passes.canonicalize.multiply_single_pixels import MultiplySinglePixels
from tvm_sparse.testing.models import dataflow, onnxruntime_outputs, write_onnx

OP = relax.op
WEIGHT = np.random.default_rng(0).standard_normal((256, 512, 1, 1)).astype("float32") / 20
WHOLE = np.random.default_rng(1).standard_normal((64, 32, 6, 7)).astype("float32") / 30
BIAS = np.random.default_rng(2).standard_normal((1, 256, 1, 1)).astype("float32")


def pixel(emit, x):
    y = emit(OP.nn.conv2d(x, relax.const(WEIGHT)))
    y = emit(OP.nn.relu(emit(OP.add(y, relax.const(BIAS)))))
    return emit(OP.reshape(y, (2, 256)))


def rows(emit, x):
    matrix = np.ascontiguousarray(WEIGHT.reshape(256, 512).T)
    y = emit(OP.matmul(emit(OP.reshape(x, (2, 512))), relax.const(matrix)))
    y = emit(OP.nn.relu(emit(OP.add(y, relax.const(BIAS.reshape(256))))))
    return emit(OP.reshape(emit(OP.reshape(y, (2, 256, 1, 1))), (2, 256)))


def test_a_product_with_what_follows_it():
    shape = (2, 512, 1, 1)
    after = MultiplySinglePixels()(dataflow(pixel, shape))
    tvm.ir.assert_structural_equal(after, dataflow(rows, shape))


def kept(body, shape):
    before = dataflow(body, shape)
    tvm.ir.assert_structural_equal(MultiplySinglePixels()(before), before)


def test_a_factor_of_an_image_stays_a_pixel():
    weight = relax.const(WEIGHT)

    def body(emit, x):
        image = emit(OP.nn.conv2d(x, weight))
        pooled = emit(OP.mean(x, [2, 3], keepdims=True))
        share = emit(OP.sigmoid(emit(OP.nn.conv2d(pooled, weight))))
        return emit(OP.multiply(image, share))

    kept(body, (1, 512, 8, 8))


@pytest.mark.parametrize("what", ["small", "padded", "several pixels"])
def test_what_stays_a_convolution(what):
    weight = WEIGHT[:16, :32] if what == "small" else WEIGHT
    padding = 1 if what == "padded" else 0
    size = 2 if what == "several pixels" else 1
    kept(
        lambda emit, x: emit(OP.nn.conv2d(x, relax.const(weight), padding=padding)),
        (1, weight.shape[1], size, size),
    )


@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize("kind", ["pixel", "whole", "line"])
def test_against_onnxruntime(tmp_path, kind, batch):
    weight = {"pixel": WEIGHT, "whole": np.tile(WHOLE, (1, 2, 1, 1)), "line": WEIGHT[..., 0]}[kind]
    bias = BIAS.reshape(-1)[: len(weight)]
    nodes = [
        make_node("Conv", ["x", "w", "b"], ["c"]),
        make_node("Sigmoid", ["c"], ["s"]),
        make_node("Mul", ["s", "c"], ["y"]),
    ]
    shape = [batch, *weight.shape[1:]]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": shape}, ["y"], {"w": weight, "b": bias})
    x = np.random.default_rng(3).standard_normal(shape).astype("float32")
    engine = tvm_sparse.compile(path)
    assert all("linear" in layer.kernel for layer in engine.report.layers)
    expected = onnxruntime_outputs(path, {"x": x})["y"]
    np.testing.assert_allclose(engine.run(x)["y"], expected, rtol=1e-4, atol=1e-5)
