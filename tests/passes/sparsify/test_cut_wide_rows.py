"""Convolutions of wide rows and of one axis: before and after, and against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax, tirx

import tvm_sparse
from tvm_sparse.cpu.integers import dot_products
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.onnx_runtime import exact_options
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.shapes import known_size
from tvm_sparse.passes.sparsify.cut_wide_rows import CutWideRows
from tvm_sparse.passes.sparsify.move_images_to_panels import MoveImagesToPanels
from tvm_sparse.sizes.strips import WIDEST, WIDEST_SINGLE, Strips
from tvm_sparse.testing.models import dataflow, operators_of, pruned

CPU = profile("haswell")


def weights(*shape, density=0.1):
    return pruned(np.random.default_rng(0), shape, density)


def test_a_convolution_of_one_axis_is_cut_and_its_epilogue_moves_above_the_joint():
    weight, bias = weights(16, 8, 5), np.linspace(-1, 1, 16, dtype="float32")
    strips = Strips.of(1000, 1000, 2, 1, 5, 4 * CPU.cores)

    def before(emit, x):
        y = emit(relax.op.nn.conv1d(x, relax.const(weight), padding=(2, 2)))
        y = emit(relax.op.add(y, relax.const(bias.reshape(1, 16, 1))))
        return emit(relax.op.nn.relu(y))

    def after(emit, x):
        image = emit(relax.op.reshape(x, (2, 8, 1, 1000)))
        y = emit(operators.to_strips(image, strips))
        y = emit(relax.op.nn.conv2d(y, relax.const(weight[:, :, None])))
        y = emit(relax.op.add(y, relax.const(bias.reshape(16, 1, 1))))
        y = emit(operators.from_strips(emit(relax.op.nn.relu(y)), strips, 2, 1))
        return emit(relax.op.reshape(y, (2, 16, 1000)))

    mod = CutWideRows(CPU)(dataflow(before, (2, 8, 1000)))
    mod = relax.transform.DeadCodeElimination()(mod)
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, (2, 8, 1000))["main"])


@pytest.mark.parametrize(
    ("height", "width", "is_cut"),
    [
        (1, WIDEST_SINGLE, False),
        (1, WIDEST_SINGLE + 1, True),
        (4, WIDEST, False),
        (4, WIDEST + 1, True),
    ],
)
def test_which_images_are_cut(height, width, is_cut):
    weight = relax.const(weights(2, 3, 1, 3))
    mod = dataflow(lambda emit, x: emit(relax.op.nn.conv2d(x, weight)), (1, 3, height, width))
    assert ("tvm_sparse.to_strips" in operators_of(CutWideRows(CPU)(mod))) == is_cut


CASES = {
    "odd width": ((1, 12, 1237), (20, 12, 7), {"pads": [3, 3]}),
    "causal and dilated": ((1, 8, 700), (16, 8, 3), {"pads": [16, 0], "dilations": [8]}),
    "strided batch": ((3, 8, 901), (16, 8, 4), {"strides": [3], "pads": [1, 2]}),
    "one position": ((1, 16, 2000), (24, 16, 1), {}),
    "short": ((2, 16, 9), (16, 16, 3), {"pads": [1, 1]}),
    "depthwise": ((1, 16, 1500), (16, 1, 5), {"group": 16, "pads": [2, 2]}),
    "grouped": ((1, 16, 500), (32, 4, 5), {"group": 4, "pads": [2, 2]}),
    "a reach of the whole row": ((1, 4, 300), (8, 4, 3), {"dilations": [149]}),
    "one row of an image": ((1, 8, 1, 900), (16, 8, 1, 9), {"pads": [0, 4, 0, 4]}),
    "a wide image": ((1, 3, 7, 2100), (8, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
}


@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_numbers(tmp_path, case, density):
    """A convolution with bias and ReLU, a second one of its result, and their sum."""
    shape, weight_shape, attributes = CASES[case]
    rank, out = len(shape), weight_shape[0]
    arrays = {
        "w": weights(*weight_shape, density=density),
        "b": np.linspace(-1, 1, out, dtype="float32"),
        "v": weights(out, out, *[1] * (rank - 2), density=density),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], **attributes),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Conv", ["r", "v"], ["d"]),
            helper.make_node("Add", ["r", "d"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    x = np.random.default_rng(1).standard_normal(shape).astype("float32")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    (y,) = tvm_sparse.compile(path, threads=2, fallback="off").run([x]).values()
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())


INTEGERS = {
    "odd width": ((2, 12, 1237), (20, 12, 7), {"pads": [3, 3]}),
    "causal and dilated": ((1, 8, 700), (16, 8, 3), {"pads": [16, 0], "dilations": [8]}),
    "strided": ((1, 8, 901), (16, 8, 4), {"strides": [2], "pads": [1, 2]}),
    "whole": ((3, 40, 77), (36, 40, 3), {"pads": [1, 1]}),
    "a wide image": ((1, 24, 3, 2100), (28, 24, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
}


@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("case", INTEGERS)
def test_integers(tmp_path, case, is_dynamic):
    """A quantized convolution, ReLU, a quantized one of single pixels, and their sum."""
    shape, weight_shape, attributes = INTEGERS[case]
    rng, rank, out = np.random.default_rng(0), len(shape), weight_shape[0]
    arrays = {
        "w": rng.integers(-127, 128, weight_shape).astype("int8"),
        "v": rng.integers(-127, 128, (out, out, *[1] * (rank - 2))).astype("int8"),
        "scale": np.float32(0.0317),
        "zero": np.uint8(120),
        "of_weight": np.float32(0.0113),
    }
    nodes = []

    def rounded(name):
        step, point = "scale", "zero"
        if is_dynamic:
            step, point = f"{name}_scale", f"{name}_zero"
            outputs = [f"{name}_q", step, point]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [name], outputs))
        else:
            nodes.append(helper.make_node("QuantizeLinear", [name, step, point], [f"{name}_q"]))
        operands = [f"{name}_q", step, point]
        nodes.append(helper.make_node("DequantizeLinear", operands, [f"{name}_f"]))
        return f"{name}_f"

    for name in ("w", "v"):
        nodes.append(helper.make_node("DequantizeLinear", [name, "of_weight"], [f"{name}_f"]))
    nodes.append(helper.make_node("Conv", [rounded("x"), "w_f"], ["c"], **attributes))
    nodes.append(helper.make_node("Relu", ["c"], ["r"]))
    nodes.append(helper.make_node("Conv", [rounded("r"), "v_f"], ["d"]))
    nodes.append(helper.make_node("Add", ["r", "d"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    x = rng.standard_normal(shape).astype("float32")
    session = onnxruntime.InferenceSession(path, exact_options(), ["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    engine = tvm_sparse.compile(path, threads=2, fallback="off")
    (y,) = engine.run([x]).values()
    # Where a value lies in the middle between two integers, all channels that see it may differ.
    off = np.abs(y - expected) > 1e-5 * np.abs(expected).max()
    assert off.mean() < 0.01
    dots = dot_products(native())
    if dots is not None and dots.per_word == 4:
        assert "int8" in {layer.precision for layer in engine.report.layers}


def test_images_of_any_width_are_cut_and_operators_of_pixels_move_above_the_joint():
    weight, one = relax.const(weights(16, 8, 3, 3)), relax.const(weights(4, 16, 1, 1))
    bias = np.linspace(-1, 1, 16, dtype="float32")
    width = tirx.Var("width", "int64")
    extent = known_size(width)
    strips = Strips.of_any_width(extent * 2, extent, 1, 2, 3)

    def before(emit, x):
        y = emit(relax.op.nn.conv2d(x, weight, strides=2, padding=1))
        y = emit(relax.op.add(y, relax.const(bias.reshape(1, 16, 1, 1))))
        z = emit(relax.op.strided_slice(y, [1], [0], [4]))
        y = emit(relax.op.nn.conv2d(y, one))
        return emit(relax.op.concat([y, z], 1))

    def after(emit, x):
        y = emit(operators.to_strips(x, strips))
        y = emit(relax.op.nn.conv2d(y, weight, strides=2, padding=(1, 0, 1, 0)))
        y = emit(relax.op.add(y, relax.const(bias.reshape(16, 1, 1))))
        z = emit(relax.op.strided_slice(y, [1], [0], [4]))
        y = emit(relax.op.nn.conv2d(y, one))
        y = emit(relax.op.concat([y, z], 1))
        return emit(operators.from_strips(y, strips, 2, 5))

    mod = CutWideRows(CPU)(dataflow(before, (2, 8, 10, 2 * width)))
    mod = relax.transform.DeadCodeElimination()(mod)
    tvm.ir.assert_structural_equal(
        mod["main"], dataflow(after, (2, 8, 10, 2 * width))["main"], map_free_vars=True
    )


def test_strips_that_no_kernel_computes_are_joined_from_panels():
    width = known_size(tirx.Var("width", "int64"))
    strips = Strips.of_any_width(width, width, 0, 1, 1, 16)

    def joined(emit, x):
        return emit(operators.from_strips(x, strips, 1, 3))

    mod = MoveImagesToPanels(CPU)(dataflow(joined, (strips.count, 4, 3, 16)))
    assert operators_of(mod) == ["tvm_sparse.image_to_panels", "tvm_sparse.from_strips"]
