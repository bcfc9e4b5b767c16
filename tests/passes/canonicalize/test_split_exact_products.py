"""Sums of products of integers are exact, however large they may become."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.split_exact_products import SplitExactProducts
from tvm_sparse.testing.models import dataflow, operators_of

OPS = relax.op
ONE, ZERO = relax.const(np.float32(1)), relax.const(np.uint8(0), "uint8")


def network(weight, zero=0, axis=1):
    """Return a product of float32 inputs that hold integers and an integer weight."""

    def body(emit, x):
        x = emit(OPS.dequantize(emit(OPS.astype(x, "uint8")), ONE, ZERO, axis=0))
        point = relax.const(np.array(zero, weight.dtype), str(weight.dtype))
        w = emit(OPS.dequantize(relax.const(weight), ONE, point, axis=axis))
        product = OPS.matmul(x, w) if weight.ndim == 2 else OPS.nn.conv2d(x, w, padding=1)
        return emit(OPS.astype(emit(product), "int32"))

    return body


def run(mod, *inputs):
    target = tvm.target.Target({"kind": "llvm"})
    built = tvm.compile(mod, target, relax_pipeline=relax.get_default_pipeline(target))
    machine = relax.VirtualMachine(built, tvm.cpu())
    return machine["main"](*[tvm.runtime.tensor(x.astype("float32")) for x in inputs]).numpy()


@pytest.mark.parametrize("taps", [600, 5000, 20000])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_large_sums(taps, dtype):
    limits = np.iinfo(dtype)
    weight = np.full((taps, 3), [limits.max, limits.max - 1, limits.min], dtype)
    weight[0] -= 1
    x = np.full((2, taps), 255)
    x[1] -= np.arange(taps) % 2
    mod = SplitExactProducts()(dataflow(network(weight), (2, taps)))
    assert operators_of(mod).count("matmul") > 1
    exact = x.astype("int64") @ weight.astype("int64")
    assert np.abs(exact).max() > 2**24
    np.testing.assert_array_equal(run(mod, x), exact)


def test_a_zero_point_for_each_channel_and_a_convolution():
    weight = np.full((2, 80, 3, 3), [[[[250]]], [[[3]]]], "uint8")
    weight[0, 0, 1, 1] = 249
    body = network(weight, zero=[0, 255], axis=0)
    mod = SplitExactProducts()(dataflow(body, (1, 80, 3, 3)))
    x = np.full((1, 80, 3, 3), 255)
    middle = run(mod, x)[0, :, 1, 1]
    np.testing.assert_array_equal(middle, [255 * (720 * 250 - 1), -255 * 720 * 252])


def test_small_sums_stay_one_product():
    weight = np.random.default_rng(0).integers(-127, 128, (700, 4)).astype("int8")
    mod = dataflow(network(weight), (2, 700))
    tvm.ir.assert_structural_equal(SplitExactProducts()(mod), mod)


def test_two_tensors_are_cut_along_the_sum():
    def body(emit, a, b):
        a, b = (
            emit(OPS.dequantize(emit(OPS.astype(value, "uint8")), ONE, ZERO, axis=0))
            for value in (a, b)
        )
        return emit(OPS.astype(emit(OPS.matmul(a, b)), "int32"))

    mod = SplitExactProducts()(dataflow(body, (2, 3, 600), (2, 600, 4)))
    assert operators_of(mod).count("matmul") == 3
    a, b = np.full((2, 3, 600), 255), np.full((2, 600, 4), 255)
    a[0, 0, 0] = 254
    np.testing.assert_array_equal(run(mod, a, b), a @ b)
