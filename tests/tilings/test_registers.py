"""What registers hold, and what a step of a dense kernel costs in them."""

import pytest

from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.tilings.registers import (
    FMA_LATENCY,
    LOOP_CYCLES,
    accumulates,
    dense_step_cycles,
    fits_registers,
    most_channels,
    sparse_accumulators,
)


def test_on_arm_the_weights_of_a_tile_take_a_register_for_four():
    avx512, neon = profile("skylake-avx512"), profile("rpi4")
    assert fits_registers(14, 2, avx512, ACTIVATIONS) and not fits_registers(
        15, 2, avx512, ACTIVATIONS
    )
    assert fits_registers(13, 2, neon, ACTIVATIONS) and not fits_registers(14, 2, neon, ACTIVATIONS)


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
def test_most_channels_fit_and_one_more_does_not(name, vectors):
    cpu = profile(name)
    most = most_channels(vectors, cpu, ACTIVATIONS)
    assert fits_registers(most, vectors, cpu, ACTIVATIONS)
    assert not fits_registers(most + 1, vectors, cpu, ACTIVATIONS)


@pytest.mark.parametrize("name", list(PROFILES))
def test_the_accumulators_of_a_sparse_kernel_are_enough_and_stay_in_registers(name):
    cpu = profile(name)
    assert accumulates(sparse_accumulators(cpu), cpu)
    assert not accumulates(1, cpu)
    assert not accumulates(cpu.vector_registers, cpu)


def test_a_step_takes_its_multiply_adds_its_loads_or_the_latency():
    avx512, a53 = profile("skylake-avx512"), profile("rpi3")
    assert dense_step_cycles(14, 2, 1, avx512, ACTIVATIONS) == LOOP_CYCLES + 14
    assert dense_step_cycles(2, 1, 1, avx512, ACTIVATIONS) == LOOP_CYCLES + FMA_LATENCY
    # A weight in all lanes takes a load, so that one vector a channel waits for the loads.
    assert dense_step_cycles(16, 1, 1, avx512, ACTIVATIONS) == LOOP_CYCLES + 17 / 1.6
    assert dense_step_cycles(16, 1, 2, avx512, ACTIVATIONS) == LOOP_CYCLES + 18 / 1.6
    # The Cortex-A53 loads half as many vectors as it multiplies; four weights come with one load.
    assert dense_step_cycles(8, 4, 1, a53, ACTIVATIONS) == LOOP_CYCLES + 16
    assert dense_step_cycles(4, 4, 2, a53, ACTIVATIONS) == LOOP_CYCLES + 9 / 0.8
