from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tvm import relax

import tvm_sparse
from tvm_sparse.passes.canonicalize.split_transposed_conv import SplitTransposedConv
from tvm_sparse.testing.models import dataflow, operators_of, run

RNG = np.random.default_rng(0)


def weight(*shape):
    return RNG.standard_normal(shape).astype("float32")


def test_one_convolution_for_each_kind_of_pixels():
    w = weight(3, 5, 4, 4)

    def before(emit, x):
        return emit(relax.op.nn.conv2d_transpose(x, relax.const(w), strides=2, padding=1))

    def after(emit, x):
        # Output pixel 2q + r sees input pixel q with tap r + 1, and one neighbour with the tap
        # two places further: the left one if r is 0, the right one if r is 1.
        kinds = []
        for vertical, up in (([3, 1], 1), ([2, 0], 0)):
            for horizontal, left in (([3, 1], 1), ([2, 0], 0)):
                kind = w[:, :, vertical][:, :, :, horizontal].swapaxes(0, 1)
                padding = (up, left, 1 - up, 1 - left)
                conv = relax.op.nn.conv2d(x, relax.const(kind.copy()), padding=padding)
                kinds.append(emit(conv))
        image = emit(relax.op.concat(kinds, axis=1))
        parted = emit(relax.op.reshape(image, (2, 2, 2, 5, 6, 7)))
        turned = emit(relax.op.permute_dims(parted, [0, 3, 4, 1, 5, 2]))
        return emit(relax.op.reshape(turned, (2, 5, 12, 14)))

    shape = 2, 3, 6, 7
    mod = SplitTransposedConv()(dataflow(before, shape))
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, shape)["main"])


def test_kinds_that_see_the_same_pixels_are_one_convolution():
    w = weight(3, 5, 8)

    def before(emit, x):
        return emit(relax.op.nn.conv1d_transpose(x, relax.const(w), strides=4, padding=2))

    def after(emit, x):
        kinds = []
        for taps, left in (([[6, 2], [7, 3]], 1), ([[4, 0], [5, 1]], 0)):
            kind = np.concatenate([w[:, :, places].swapaxes(0, 1) for places in taps])
            conv = relax.op.nn.conv1d(x, relax.const(kind), padding=(left, 1 - left))
            kinds.append(emit(conv))
        image = emit(relax.op.concat(kinds, axis=1))
        parted = emit(relax.op.reshape(image, (1, 4, 5, 9)))
        turned = emit(relax.op.permute_dims(parted, [0, 2, 3, 1]))
        return emit(relax.op.reshape(turned, (1, 5, 36)))

    mod = SplitTransposedConv()(dataflow(before, (1, 3, 9)))
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, (1, 3, 9))["main"])


def test_without_a_stride_it_is_one_convolution():
    w = weight(3, 5, 3, 3)

    def body(emit, x):
        return emit(relax.op.nn.conv2d_transpose(x, relax.const(w), padding=1))

    assert operators_of(SplitTransposedConv()(dataflow(body, (1, 3, 4, 4)))) == ["nn.conv2d"]


@pytest.mark.parametrize("strides", [1, 9])
def test_other_transposed_convolutions_stay(strides):
    """A weight that is no constant, and strides for which there would be too many layers."""

    def body(emit, x, w):
        kernel = w if strides == 1 else relax.const(weight(3, 5, 3, 3))
        return emit(relax.op.nn.conv2d_transpose(x, kernel, strides=strides))

    mod = dataflow(body, (1, 3, 4, 4), (3, 5, 3, 3))
    tvm.ir.assert_structural_equal(SplitTransposedConv()(mod)["main"], mod["main"])


def naive(x, w, strides, pads, dilation, extra, groups):
    """The definition: every input pixel adds a multiple of the kernel to the output."""
    batch, channels, *pixels = x.shape
    rank, size = len(pixels), channels // groups
    whole = [
        (n - 1) * s + d * (k - 1) + 1 + e
        for n, s, d, k, e in zip(pixels, strides, dilation, w.shape[2:], extra, strict=True)
    ]
    out = np.zeros((batch, groups * w.shape[1], *whole))
    for tap in np.ndindex(w.shape[2:]):
        places = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, dilation, pixels, strides, strict=True)
        )
        for g in range(groups):
            into = slice(g * w.shape[1], (g + 1) * w.shape[1])
            part = slice(g * size, (g + 1) * size)
            product = np.einsum("bi...,io->bo...", x[:, part], w[(part, slice(None), *tap)])
            out[(slice(None), into, *places)] += product
    cut = tuple(slice(pads[i], n - pads[rank + i]) for i, n in enumerate(whole))
    return out[(slice(None), slice(None), *cut)]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_numbers(data):
    rank = data.draw(st.integers(1, 2))

    def sizes(low, high):
        return data.draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    groups, pixels, kernel = data.draw(st.integers(1, 2)), sizes(1, 7), sizes(1, 5)
    strides, dilation = sizes(1, 4), sizes(1, 3)
    extra = [data.draw(st.integers(0, stride - 1)) for stride in strides]
    pads = [data.draw(st.integers(0, 3)) for _ in range(2 * rank)]
    x = RNG.standard_normal((2, 2 * groups, *pixels)).astype("float32")
    w = weight(2 * groups, 3, *kernel)
    want = naive(x, w, strides, pads, dilation, extra, groups)
    if 0 in want.shape:
        return
    convolve = relax.op.nn.conv1d_transpose if rank == 1 else relax.op.nn.conv2d_transpose

    def body(emit, x):
        call = convolve(
            x,
            relax.const(w),
            strides=strides,
            padding=pads,
            output_padding=extra,
            dilation=dilation,
            groups=groups,
        )
        return emit(call)

    mod = SplitTransposedConv()(dataflow(body, x.shape))
    assert not any("transpose" in name for name in operators_of(mod))
    np.testing.assert_allclose(run(tvm.compile(mod, "llvm"), x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("density", "kernel"), [(0.1, "sparse"), (1.0, "")])
def test_a_decoder_of_images(tmp_path, density, kernel):
    """Two transposed convolutions with an activation between them are one region of columns."""
    weights = [
        weight(*shape) * (RNG.random(shape) < density) for shape in ((32, 24, 4, 4), (24, 20, 2, 2))
    ]
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w0"], ["a"], "up", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "w1"], ["y"], "last", strides=[2, 2]),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "decoder",
        [tensor("x", 1, (1, 32, 15, 20))],
        [tensor("y", 1, (1, 20, 60, 80))],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    path = tmp_path / "decoder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    x = RNG.standard_normal((1, 32, 15, 20)).astype("float32")
    engine = tvm_sparse.compile(path, threads=2)
    (want,) = onnxruntime.InferenceSession(path).run(None, {"x": x})
    np.testing.assert_allclose(engine.run({"x": x})["y"], want, rtol=1e-4, atol=1e-4)
    layers = engine.report.layers
    assert {layer.name for layer in layers} == {"up", "last"}
    assert all(layer.kernel.startswith(kernel) and layer.kernel != "default" for layer in layers)
    assert not engine.report.warnings
