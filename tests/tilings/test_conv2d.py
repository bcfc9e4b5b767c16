"""Dense convolutions: their register tiles and their jobs."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.testing.images import conv2d_problems, square_conv2d
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.registers import fits_registers

RESNET = [(64, 56, 1), (128, 56, 2), (128, 28, 1), (256, 28, 2), (256, 14, 1), (512, 7, 1)]


@settings(max_examples=50, deadline=None)
@given(problem=conv2d_problems(profile("skylake-avx512")), name=st.sampled_from(list(PROFILES)))
def test_every_tiling_is_possible(problem, name):
    cpu = profile(name)
    lanes_out = cpu.image_lanes(problem.out_width)
    problem = replace(problem, lanes_in=cpu.image_lanes(problem.width), lanes_out=lanes_out)
    dense = CONV2D_FAMILY.default(Layer(problem), cpu)
    tile = dense.vectors * dense.rows
    assert fits_registers(dense.channels, tile, cpu, problem.dtype)


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("channels", "height", "stride"), RESNET)
def test_cores_get_nearly_equal_shares(name, channels, height, stride):
    cpu = profile(name)
    problem = square_conv2d(channels, height, stride, cpu)
    tiling = CONV2D_FAMILY.default(Layer(problem), cpu)
    jobs = -(-problem.out_height // tiling.row_block) * tiling.chunks
    assert jobs / (-(-jobs // cpu.cores) * cpu.cores) >= 0.75


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("channels", "height", "stride"), RESNET)
def test_the_default_is_the_fastest_tile_of_its_size(name, channels, height, stride):
    cpu = profile(name)
    layer = Layer(square_conv2d(channels, height, stride, cpu))
    default = CONV2D_FAMILY.default(layer, cpu)
    least = CONV2D_FAMILY.cycles(layer, default, cpu)
    for tiling in CONV2D_FAMILY.tilings(layer, cpu):
        if tiling.vectors * tiling.rows <= 4:
            assert CONV2D_FAMILY.cycles(layer, tiling, cpu) >= least


def test_depthwise_convolutions_are_refused():
    cpu = profile("haswell")
    depthwise = Layer(square_conv2d(64, 28, 1, cpu, groups=64))
    assert "kernel of its own" in CONV2D_FAMILY.refusal(depthwise, cpu)
    assert not CONV2D_FAMILY.refusal(Layer(square_conv2d(64, 28, 1, cpu, groups=4)), cpu)
