"""Depthwise convolutions: their jobs, and what a tile costs."""

from dataclasses import replace

import pytest

from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.testing.images import square_conv2d
from tvm_sparse.tilings.depthwise_conv2d import DEPTHWISE_CONV2D_FAMILY
from tvm_sparse.tilings.layer import Layer


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("channels", "height"), [(32, 112), (144, 56), (960, 7)])
def test_jobs_fit_in_l1_and_serve_every_core(name, channels, height):
    cpu = profile(name)
    problem = square_conv2d(channels, height, 1, cpu, groups=channels)
    tiling = DEPTHWISE_CONV2D_FAMILY.default(Layer(problem), cpu)
    window_bytes = (tiling.row_block + 2) * tiling.channels * (problem.lanes_in + 8) * 4
    assert window_bytes <= cpu.l1_bytes
    assert -(-channels // tiling.channels) >= cpu.cores


def test_one_accumulator_leaves_the_latency_uncovered():
    cpu = profile("haswell")
    layer = Layer(square_conv2d(32, 56, 1, cpu, groups=32))
    default = DEPTHWISE_CONV2D_FAMILY.default(layer, cpu)
    one = replace(default, rows=1, vectors=1)
    cycles = [DEPTHWISE_CONV2D_FAMILY.cycles(layer, tiling, cpu) for tiling in (default, one)]
    assert cycles[1] > 3 * cycles[0]


def test_other_convolutions_are_refused():
    cpu = profile("haswell")
    layer = Layer(square_conv2d(64, 28, 1, cpu, groups=4))
    assert "one channel per group" in DEPTHWISE_CONV2D_FAMILY.refusal(layer, cpu)
