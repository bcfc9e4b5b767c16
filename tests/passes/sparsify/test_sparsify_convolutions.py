from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.op.nn import conv2d

from tvm_sparse.cpu.profile import profile
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.sparsify.sparsify_weights import SparsifyWeights
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.models import dataflow, operators_of, pruned
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY

CPU = profile("haswell")
SHAPE = (1, 64, 28, 28)


def network(density, kernel=3, **options):
    weight = pruned(
        np.random.default_rng(0), (64, 64 // options.get("groups", 1), kernel, kernel), density
    )
    return weight, lambda emit, x: emit(conv2d(x, relax.const(weight), **options))


def test_a_pruned_convolution_becomes_sparse():
    weight, before = network(0.05, padding=(1, 1, 1, 1), strides=(2, 2))
    conv = Conv2d(1, 64, 28, 28, 64, (3, 3), (2, 2), (1, 1, 1, 1), lanes_in=32, lanes_out=16)
    tiling = SPARSE_CONV2D_FAMILY.default(Layer(conv, np.count_nonzero(weight) / weight.size), CPU)
    packed = PackedSparse.from_conv2d(weight, conv, tiling)

    def after(emit, x):
        arrays = (packed.indptr, packed.channels, packed.offsets, packed.values)
        p = emit(panel.image_to_panels(x, 32))
        constants = [relax.const(a) for a in arrays]
        y = panel.sparse_conv2d(p, constants, conv, dataclasses.asdict(tiling))
        y = emit(panel.of_layer(y, "lv"))
        return emit(panel.panels_to_image(y, (1, 64, 14, 14)))

    mod = SparsifyWeights(CPU)(dataflow(before, SHAPE))
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, SHAPE)["main"])
    (layer,) = mod.attrs["tvm_sparse.layers"]
    assert layer["kernel"] == "sparse_conv2d"


def test_a_pruned_pointwise_convolution_is_a_sparse_linear_layer():
    _, before = network(0.05, kernel=1)
    mod = SparsifyWeights(CPU)(dataflow(before, SHAPE))
    names = ["image_to_panels", "sparse_linear", "panels_to_image"]
    assert operators_of(mod) == [f"tvm_sparse.{name}" for name in names]


@pytest.mark.parametrize(("density", "options"), [(1.0, {}), (0.05, {"groups": 2})])
def test_dense_and_grouped_convolutions_stay(density, options):
    _, body = network(density, **options)
    before = dataflow(body, SHAPE)
    mod = SparsifyWeights(CPU)(before)
    tvm.ir.assert_structural_equal(mod["main"], before["main"])
    (layer,) = mod.attrs["tvm_sparse.layers"]
    assert layer["kernel"] == "conv2d"
