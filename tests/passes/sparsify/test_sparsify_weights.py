from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.op import matmul

from tvm_sparse.cpu.profile import profile
from tvm_sparse.formats.dense import pack_linear
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.sparsify.measure_sparsity import MeasureSparsity
from tvm_sparse.passes.sparsify.pack_dense_weights import PackDenseWeights
from tvm_sparse.passes.sparsify.sparsify_weights import SparsifyWeights
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.testing.models import dataflow, operators_of, pruned
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

CPU = profile("haswell")
LANES = 16
SHAPE = (2, 40, 256)


def network(density, k=256, n=128):
    weight = pruned(np.random.default_rng(0), (k, n), density)
    return weight, lambda emit, x: emit(matmul(x, relax.const(weight)))


def test_a_pruned_weight_becomes_sparse():
    weight, before = network(0.05)
    density = np.count_nonzero(weight) / weight.size
    rows = SHAPE[0] * -(-SHAPE[1] // LANES)
    tiling = SPARSE_LINEAR_FAMILY.default(Layer(Linear(rows, LANES, 128, 256)), CPU)
    packed = PackedSparse.from_dense(np.ascontiguousarray(weight.T), LANES, tiling)

    def after(emit, x):
        arrays = (packed.indptr, packed.channels, packed.offsets, packed.values)
        p = emit(panel.to_panels(x, LANES))
        fields = dataclasses.asdict(tiling)
        y = panel.sparse_linear(p, [relax.const(a) for a in arrays], 128, fields)
        y = emit(panel.of_layer(y, "lv"))
        return emit(panel.from_panels(y, (2, 40, 128)))

    mod = SparsifyWeights(CPU)(dataflow(before, SHAPE))
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, SHAPE)["main"])
    (layer,) = mod.attrs["tvm_sparse.layers"]
    assert layer["kernel"] == "sparse_linear" and layer["density"] == density


@pytest.mark.parametrize("density", [0.9, 1.0])
def test_a_dense_weight_stays_dense(density):
    _, body = network(density)
    before = dataflow(body, SHAPE)
    mod = SparsifyWeights(CPU)(before)
    tvm.ir.assert_structural_equal(mod["main"], before["main"])
    (layer,) = mod.attrs["tvm_sparse.layers"]
    assert layer["kernel"] == "linear" and "zeros" in layer["reason"]


def test_a_dense_weight_is_packed():
    weight, before = network(1.0)

    def after(emit, x):
        block = LINEAR_FAMILY.default(Layer(Linear(1, LANES, 128, 256)), CPU).channels
        packed = relax.const(pack_linear(np.ascontiguousarray(weight.T), block))
        y = panel.linear(emit(panel.to_panels(x, LANES)), packed, 128)
        y = emit(panel.of_layer(y, "lv"))
        return emit(panel.from_panels(y, (2, 40, 128)))

    mod = PackDenseWeights(CPU)(dataflow(before, SHAPE))
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, SHAPE)["main"])


def test_a_weight_that_is_not_constant_stays():
    before = dataflow(lambda emit, x, w: emit(matmul(x, w)), SHAPE, (256, 128))
    for rewrite in (SparsifyWeights(CPU), PackDenseWeights(CPU)):
        assert operators_of(rewrite(before)) == ["matmul"]


def test_a_batched_weight_stays():
    weight = relax.const(pruned(np.random.default_rng(0), (2, 256, 128), 0.05))
    before = dataflow(lambda emit, x: emit(matmul(x, weight)), SHAPE)
    for rewrite in (SparsifyWeights(CPU), PackDenseWeights(CPU)):
        assert operators_of(rewrite(before)) == ["matmul"]


def test_sparsity_is_measured():
    weight, body = network(0.25)
    before = dataflow(body, SHAPE)
    mod = MeasureSparsity()(before)
    (entry,) = mod.attrs["tvm_sparse.weights"]
    assert entry["operator"] == "matmul" and list(entry["shape"]) == [256, 128]
    assert entry["density"] == np.count_nonzero(weight) / weight.size
    tvm.ir.assert_structural_equal(mod["main"], before["main"])
