"""Sparse convolutions: their tilings, and when they are worth it."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.formats.sparse import SparseLayout, sparse_window
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.images import conv2d_problems, square_conv2d
from tvm_sparse.tilings.families import sparse_or_dense
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY

RESNET = [(64, 56, 1), (128, 56, 2), (128, 28, 1), (256, 28, 2), (256, 14, 1), (512, 7, 1)]


@settings(max_examples=50, deadline=None)
@given(
    problem=conv2d_problems(profile("skylake-avx512")),
    name=st.sampled_from(list(PROFILES)),
    density=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_every_tiling_is_possible(problem, name, density):
    cpu = profile(name)
    lanes_out = cpu.image_lanes(problem.out_width)
    problem = replace(problem, lanes_in=cpu.image_lanes(problem.width), lanes_out=lanes_out)
    tiling = SPARSE_CONV2D_FAMILY.default(Layer(problem, density), cpu)
    SparseLayout.conv2d(problem, tiling)
    window = sparse_window(problem, tiling)
    assert window.rows(tiling.rows) * window.row_pitch * 4 <= cpu.l1_bytes


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("channels", "height", "stride"), RESNET)
def test_pruned_layers_are_sparse_and_dense_ones_dense(name, channels, height, stride):
    cpu = profile(name)
    problem = square_conv2d(channels, height, stride, cpu)
    for density, sparse in [(0, True), (0.05, True), (0.3, True), (1, False)]:
        assert sparse_or_dense(Layer(problem, density), cpu).sparse is sparse


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("channels", "height", "stride"), RESNET)
def test_cores_get_nearly_equal_shares(name, channels, height, stride):
    cpu = profile(name)
    problem = square_conv2d(channels, height, stride, cpu)
    tiling = SPARSE_CONV2D_FAMILY.default(Layer(problem, 0.1), cpu)
    jobs = -(-problem.out_height // tiling.row_block) * tiling.chunks
    assert jobs / (-(-jobs // cpu.cores) * cpu.cores) >= 0.75


@pytest.mark.parametrize(
    ("problem", "word"),
    [
        (square_conv2d(64, 28, 1, profile("haswell"), groups=4), "group"),
        (Conv2d(1, 4, 64, 4096, 4, (31, 31), lanes_in=4096, lanes_out=4096), "reach"),
    ],
)
def test_what_the_kernel_cannot_compute_stays_dense(problem, word):
    cpu, layer = profile("haswell"), Layer(problem, 0.05)
    choice = sparse_or_dense(layer, cpu)
    assert not choice.sparse
    assert word in choice.reason
    assert choice.reason == SPARSE_CONV2D_FAMILY.refusal(layer, cpu)
    with pytest.raises(ValueError, match=word):
        SPARSE_CONV2D_FAMILY.default(layer, cpu)
