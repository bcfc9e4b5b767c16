from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.formats.sparse import SparseLayout, sparse_window
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing import conv2d_problems
from tvm_sparse.tilings.choice import fits_registers
from tvm_sparse.tilings.sparse_conv2d import (
    dense_conv_tiling,
    depthwise_tiling,
    sparse_conv_pays,
    sparse_conv_tiling,
)

RESNET = [(64, 56, 1), (128, 56, 2), (128, 28, 1), (256, 28, 2), (256, 14, 1), (512, 7, 1)]


def layer(channels, height, stride, cpu, kernel=3, groups=1):
    return Conv2d(
        *(1, channels, height, height, channels, (kernel, kernel), (stride, stride)),
        *((kernel // 2,) * 4, (1, 1), groups),
        lanes_in=cpu.image_lanes(height),
        lanes_out=cpu.image_lanes(height // stride),
    )


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
    tiling = sparse_conv_tiling(problem, density, cpu)
    SparseLayout.conv2d(problem, tiling)
    window = sparse_window(problem, tiling)
    assert window.rows(tiling.rows) * window.row_pitch * 4 <= cpu.l1_bytes
    dense = dense_conv_tiling(problem, cpu)
    tile = dense.vectors * dense.rows
    assert fits_registers(dense.channels, tile, cpu)


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("channels", "height", "stride"), RESNET)
def test_pruned_layers_are_sparse_and_dense_ones_dense(name, channels, height, stride):
    cpu = profile(name)
    problem = layer(channels, height, stride, cpu)
    for density, sparse in [(0, True), (0.05, True), (0.3, True), (1, False)]:
        assert sparse_conv_pays(problem, density, cpu).sparse is sparse


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("channels", "height", "stride"), RESNET)
def test_cores_get_nearly_equal_shares(name, channels, height, stride):
    cpu = profile(name)
    problem = layer(channels, height, stride, cpu)
    for tiling in (sparse_conv_tiling(problem, 0.1, cpu), dense_conv_tiling(problem, cpu)):
        jobs = -(-problem.out_height // tiling.row_block) * tiling.chunks
        assert jobs / (-(-jobs // cpu.cores) * cpu.cores) >= 0.75


def test_grouped_convolutions_stay_dense():
    cpu = profile("haswell")
    choice = sparse_conv_pays(layer(64, 28, 1, cpu, groups=4), 0.05, cpu)
    assert not choice.sparse
    assert "group" in choice.reason


def test_images_too_wide_for_offsets_stay_dense():
    cpu = profile("haswell")
    problem = Conv2d(1, 4, 64, 4096, 4, (31, 31), lanes_in=4096, lanes_out=4096)
    choice = sparse_conv_pays(problem, 0.05, cpu)
    assert not choice.sparse
    assert "reach" in choice.reason


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("channels", "height"), [(32, 112), (144, 56), (960, 7)])
def test_depthwise_jobs_fit_in_l1_and_serve_every_core(name, channels, height):
    cpu = profile(name)
    problem = layer(channels, height, 1, cpu, groups=channels)
    tiling = depthwise_tiling(problem, cpu)
    window_bytes = (tiling.row_block + 2) * tiling.channels * (problem.lanes_in + 8) * 4
    assert window_bytes <= cpu.l1_bytes
    assert -(-channels // tiling.channels) >= cpu.cores
