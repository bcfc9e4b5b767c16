from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.op.nn import conv2d

import tvm_sparse
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.sparsify.sparsify_weights import SparsifyWeights
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.images import assert_near, conv2d_reference
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


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "size", "kernels"), [(DType.FLOAT16, 14, 2), (DType.FLOAT32, 7, 2)]
)
def test_layers_on_narrow_images_join_rows(dtype, size, kernels, batch):
    cpu = dataclasses.replace(profile("skylake-avx512"), activations=dtype, cores=2)
    rng, shape = np.random.default_rng(0), (batch, 256, size, size)
    weights = [pruned(rng, (256, 256, k, k), 0.1) for k in (3, 1)]

    def body(emit, x):
        y = emit(conv2d(x, relax.const(weights[0]), padding=(1, 1, 1, 1)))
        return emit(conv2d(emit(relax.op.nn.relu(y)), relax.const(weights[1])))

    joined = SparsifyWeights(cpu)(dataflow(body, shape))
    assert operators_of(joined).count("tvm_sparse.joined_conv2d") == kernels
    if dtype == DType.FLOAT16 and not native().has_half:
        pytest.skip("this CPU has no float16 arithmetic")
    x = rng.standard_normal(shape).astype("float32")
    sizes = [
        Conv2d(
            *(batch, 256, size, size, 256, (k, k)),
            padding=(k // 2,) * 4,
            lanes_in=16,
            lanes_out=16,
        )
        for k in (3, 1)
    ]
    middle = np.maximum(conv2d_reference(x, weights[0], sizes[0]), 0)
    engine = tvm_sparse.compile(dataflow(body, shape), precision=str(dtype))
    (result,) = engine.run({"x0": x}).values()
    assert_near(result, conv2d_reference(middle, weights[1], sizes[1]), dtype)


@pytest.mark.parametrize(("density", "options"), [(1.0, {}), (0.05, {"groups": 2})])
def test_dense_and_grouped_convolutions_stay(density, options):
    _, body = network(density, **options)
    before = dataflow(body, SHAPE)
    mod = SparsifyWeights(CPU)(before)
    tvm.ir.assert_structural_equal(mod["main"], before["main"])
    (layer,) = mod.attrs["tvm_sparse.layers"]
    assert layer["kernel"] == "conv2d"
