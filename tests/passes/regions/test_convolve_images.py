from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvm_sparse.cpu.profile import native
from tvm_sparse.formats.dense import pack_conv2d
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.lower.lower_operators import LowerOperators
from tvm_sparse.passes.lower.lower_regions import LowerRegions
from tvm_sparse.passes.regions.convolve_images import convolve_images
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.images import conv2d_reference
from tvm_sparse.testing.kernels import losing_regions
from tvm_sparse.testing.models import dataflow, operators_of, pruned, run
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY

CPU = native()
CONV = Conv2d(1, 8, 12, 16, 8, (3, 3), padding=(1, 1, 1, 1), lanes_in=16, lanes_out=16)
KINDS = ["sparse", "dense", "depthwise"]


def convolve(kind, conv=CONV, density=0.3):
    """Return a function that convolves panels by a seeded weight, and the same one in NumPy."""
    conv = dataclasses.replace(conv, groups=conv.channels if kind == "depthwise" else 1)
    shape = (conv.out_channels, conv.channels // conv.groups, *conv.kernel)
    weight = pruned(np.random.default_rng(0), shape, density)

    def call(x):
        if kind == "depthwise":
            return panel.depthwise_conv2d(x, relax.const(weight), conv)
        if kind == "dense":
            packed = pack_conv2d(
                weight, conv.groups, CONV2D_FAMILY.default(Layer(conv), CPU).channels
            )
            return panel.conv2d(x, relax.const(packed), conv)
        tiling = SPARSE_CONV2D_FAMILY.default(Layer(conv, density), CPU)
        packed = PackedSparse.from_conv2d(weight, conv, tiling)
        arrays = [packed.indptr, packed.channels, packed.offsets, packed.values]
        constants = [relax.const(array) for array in arrays]
        return panel.sparse_conv2d(x, constants, conv, dataclasses.asdict(tiling))

    return call, lambda x: conv2d_reference(x, weight, conv)


def assert_becomes(before, after, *shapes):
    mod = convolve_images(dataflow(before, *shapes))
    tvm.ir.assert_structural_equal(mod["main"], dataflow(after, *shapes)["main"])


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_whole_panels_are_read_and_written_in_place(kind):
    call, _ = convolve(kind)

    def before(emit, x):
        y = emit(call(emit(panel.image_to_panels(x, 16))))
        y = emit(panel.with_epilogue(call(y), activation="relu"))
        return emit(panel.panels_to_image(y, (1, 8, 12, 16)))

    def after(emit, x):
        y = emit(call(x))
        return emit(panel.to_image(panel.with_epilogue(call(y), activation="relu")))

    assert_becomes(before, after, (1, 8, 12, 16))


def test_panels_with_spare_lanes_stay():
    conv = dataclasses.replace(CONV, width=15)
    call, _ = convolve("dense", conv)

    def body(emit, x):
        y = emit(call(emit(panel.image_to_panels(x, 16))))
        return emit(panel.panels_to_image(y, (1, 8, 12, 15)))

    assert_becomes(body, body, (1, 8, 12, 15))


def test_panels_with_another_reader_stay():
    call, _ = convolve("dense")

    def body(emit, x):
        p = emit(panel.image_to_panels(x, 16))
        y = emit(call(p))
        image = emit(panel.panels_to_image(y, (1, 8, 12, 16)))
        return emit(relax.Tuple([image, emit(relax.op.add(p, y))]))

    assert_becomes(body, body, (1, 8, 12, 16))


def from_image_to_image(first, second, residual=False):
    def body(emit, x):
        y = emit(first(emit(panel.image_to_panels(x, int(x.ty.shape[3])))))
        y = emit(panel.with_epilogue(second(y), residual=y if residual else None))
        rows, channels, lanes = (int(extent) for extent in y.ty.shape)
        batch = int(x.ty.shape[0])
        return emit(panel.panels_to_image(y, (batch, channels, rows // batch, lanes)))

    return body


@settings(max_examples=20, deadline=None)
@given(
    kinds=st.tuples(*[st.sampled_from(KINDS)] * 2),
    batch=st.integers(1, 3),
    height=st.integers(3, 20),
    stride=st.integers(1, 2),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    columns=st.sampled_from(["off", 1, 4, 7]),
    residual=st.booleans(),
)
def test_any_convolutions(kinds, batch, height, stride, density, columns, residual):
    lanes = CPU.vector_lanes()
    first = Conv2d(
        *(batch, 5, height, stride * 2 * lanes, 5, (3, 3), (stride, stride), (1, 1, 1, 1)),
        lanes_in=stride * 2 * lanes,
        lanes_out=2 * lanes,
    )
    second = Conv2d(
        *(batch, 5, first.out_height, 2 * lanes, 5, (3, 3), (1, 1), (1, 1, 1, 1)),
        lanes_in=2 * lanes,
        lanes_out=2 * lanes,
    )
    conv1, numpy1 = convolve(kinds[0], first, density)
    conv2, numpy2 = convolve(kinds[1], second)
    shape = (batch, 5, height, first.width)
    mod = convolve_images(dataflow(from_image_to_image(conv1, conv2, residual), shape))
    assert not {"tvm_sparse.image_to_panels", "tvm_sparse.panels_to_image"} & {*operators_of(mod)}
    mod = losing_regions(CPU, columns)(mod)
    mod = LowerOperators(CPU)(LowerRegions(CPU)(mod))
    x = np.random.default_rng(1).standard_normal(shape).astype("float32")
    middle = numpy1(x)
    want = numpy2(middle) + residual * middle
    got = run(tvm.compile(mod, CPU.to_target(), relax_pipeline="default_build"), x)
    np.testing.assert_allclose(got, want, atol=1e-4 * max(1, np.abs(want).max()))
