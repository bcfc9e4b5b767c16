from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.dtypes import DType
from tvm_sparse.schedules.operators.depth_to_space import DepthToSpace, depth_to_space
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.images import image_panels, panel_image
from tvm_sparse.testing.kernels import run_in_columns, run_kernel

MODES = {"DCR": ((1, 2, 3), (0, 3, 4, 1, 5, 2)), "CRD": ((2, 3, 1), (0, 1, 4, 2, 5, 3))}


def expected(x, block, mode):
    """DepthToSpace as the ONNX standard writes it, with blocks that may be no squares."""
    batch, channels, height, width = x.shape
    planes = channels // (block[0] * block[1])
    extents = (planes, *block) if mode == "CRD" else (*block, planes)
    parts = x.reshape(batch, *extents, height, width).transpose(MODES[mode][1])
    return parts.reshape(batch, planes, height * block[0], width * block[1])


SHAPES = st.tuples(*(st.integers(1, n) for n in (2, 3, 4, 40)))
BLOCKS = st.tuples(st.integers(1, 3), st.integers(1, 5))


@settings(max_examples=25, deadline=None)
@given(
    shape=SHAPES,
    block=BLOCKS,
    mode=st.sampled_from(list(MODES)),
    cpu=st.sampled_from([native(), profile("haswell")]),
)
def test_blocks_of_pixels(shape, block, mode, cpu):
    batch, planes, height, width = shape
    shape = batch, planes * block[0] * block[1], height, width
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    want = expected(x, block, mode)
    lanes = cpu.image_lanes(width), cpu.image_lanes(want.shape[3])
    func = depth_to_space(*shape, block, mode, *lanes, cpu)
    out = (batch * want.shape[2], planes, lanes[1])
    got = run_kernel(func, [image_panels(x, lanes[0], junk=99)], out, cpu)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(panel_image(got, want.shape), want)


@settings(max_examples=8, deadline=None)
@given(shape=SHAPES, block=BLOCKS, column=st.integers(1, 20), step=st.integers(1, 7))
def test_rows_in_columns(shape, block, column, step):
    batch, planes, height, width = shape
    x = np.random.default_rng(0).standard_normal(
        (batch, planes * block[0] * block[1], height, width)
    )
    x, cpu = x.astype("float32"), native()
    want = expected(x, block, "DCR")
    lanes = cpu.image_lanes(width), cpu.image_lanes(want.shape[3])
    source = Tensor(batch, height, x.shape[1], lanes[0])
    stage = DepthToSpace(source, width, block, "DCR", lanes[1], cpu)
    got = run_in_columns(stage, {"x": image_panels(x, lanes[0], junk=99)}, ColumnPlan(column, step))
    np.testing.assert_array_equal(panel_image(got, want.shape), want)


@pytest.mark.parametrize("mode", MODES)
def test_halves(mode):
    cpu = native()
    x = np.random.default_rng(0).standard_normal((1, 12, 3, 9)).astype("float32")
    want = expected(x, (2, 2), mode).astype("float16")
    lanes = 32, 32
    func = depth_to_space(*x.shape, (2, 2), mode, *lanes, cpu, DType.FLOAT16)
    got = run_kernel(func, [image_panels(x, 32, junk=99).astype("float16")], (6, 3, 32), cpu)
    np.testing.assert_array_equal(panel_image(got, want.shape), want)
