"""Products of a few rows: kernels with channels in the lanes, before and after, and by numbers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.op import add, matmul

import tvm_sparse
from tvm_sparse.cpu.profile import profile
from tvm_sparse.formats.rows import pack_rows
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.sparsify.constant_layers import match_layer
from tvm_sparse.passes.sparsify.pack_dense_weights import PackDenseWeights
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.testing.models import dataflow, pruned
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.row_linear import ROW_LINEAR_FAMILY

K, N = 512, 384


def weight_of(density):
    return pruned(np.random.default_rng(0), (K, N), density)


def network(density, shape, steps=1):
    """Return a module of products that follow one another, with a bias, GELU and a residual."""
    weight, bias = weight_of(density), np.linspace(-1, 1, N, dtype="float32")
    back = pruned(np.random.default_rng(1), (N, K), density)

    def body(emit, x):
        for _ in range(steps):
            y = emit(
                relax.op.nn.gelu(emit(add(emit(matmul(x, relax.const(weight))), relax.const(bias))))
            )
            x = emit(add(emit(matmul(y, relax.const(back))), x))
        return x

    return dataflow(body, shape)


def test_a_dense_row_is_packed_in_tiles_of_channels():
    weight, cpu = weight_of(1.0), profile("haswell")
    before = dataflow(lambda emit, x: emit(matmul(x, relax.const(weight))), (1, K))
    tiling = ROW_LINEAR_FAMILY.default(Layer(Linear(1, 1, N, K)), cpu)

    def after(emit, x):
        packed = relax.const(pack_rows(np.ascontiguousarray(weight.T), tiling.units))
        y = panel.row_linear(emit(panel.to_panels(x, 1)), packed, N, dataclasses.asdict(tiling))
        return emit(panel.from_panels(emit(panel.of_layer(y, "lv")), (1, N)))

    mod = PackDenseWeights(cpu)(before)
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, (1, K))["main"])


@pytest.mark.parametrize(
    ("name", "shape", "lanes", "dense_lanes"),
    [
        ("skylake-avx512", (1, K), 1, 1),
        ("skylake-avx512", (K,), 1, 1),
        ("skylake-avx512", (3, 2, K), 1, 1),
        ("skylake-avx512", (7, K), 16, 16),
        ("haswell", (1, K), 1, 1),
        ("haswell", (4, K), 8, 8),
        ("rpi4", (1, K), 4, 1),
        ("rpi4", (2, K), 4, 4),
    ],
)
def test_lanes(name, shape, lanes, dense_lanes):
    mod = dataflow(lambda emit, x: emit(matmul(x, relax.const(weight_of(0.1)))), shape)
    found = match_layer(mod["main"].body.blocks[0].bindings[0].value, profile(name))
    assert found.layer.problem.lanes == lanes
    assert (found.dense or found).layer.problem.lanes == dense_lanes


@pytest.mark.parametrize("target", ["native", "haswell"])
@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize("shape", [(K,), (1, K), (2, 1, K), (3, K), (9, K)])
def test_numbers(shape, density, target):
    engine = tvm_sparse.compile(network(density, shape), target=target, threads=2)
    x = np.random.default_rng(2).standard_normal(shape).astype("float32")
    (y,) = engine.run([x]).values()
    weight = weight_of(density).astype("float64")
    back = pruned(np.random.default_rng(1), (N, K), density)
    erf = np.vectorize(math.erf)
    product = x @ weight + np.linspace(-1, 1, N)
    expected = product * 0.5 * (1 + erf(product / np.sqrt(2))) @ back + x
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())


def test_no_layout_changes_are_left():
    """A chain of products on a row needs no copy between them, and no operator of its own."""
    kernels = {layer.kernel for layer in tvm_sparse.compile(network(0.1, (1, K), 2)).report.layers}
    assert kernels <= {"sparse_row_linear", "sparse_linear"}
