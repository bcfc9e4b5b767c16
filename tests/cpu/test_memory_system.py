import dataclasses
import itertools

import pytest

from tvm_sparse.cpu.memory_system import Bandwidth, estimate
from tvm_sparse.cpu.profile import PROFILES, profile


@pytest.mark.parametrize("name", PROFILES)
def test_every_level_is_slower_than_the_one_before(name):
    system = profile(name).memory_system
    for near, far in itertools.pairwise(system.levels):
        assert near.read >= far.read > 0 and near.copy >= far.copy > 0
    assert 0.3e9 < system.clock_hz < 8e9


def test_cores_share_what_is_not_theirs():
    level = Bandwidth(read=10e9, copy=8e9, shared=30e9)
    assert level.per_core(1) == Bandwidth(10e9, 8e9)
    assert level.per_core(3) == Bandwidth(10e9, 8e9)
    assert level.per_core(6) == Bandwidth(5e9, 4e9)
    assert Bandwidth(10e9, 8e9).per_core(64) == Bandwidth(10e9, 8e9)


def test_without_l3_memory_comes_next():
    system = estimate(1.5, 12.8, 128, 4, has_l3=False)
    assert system.l3 == system.memory and system.l2.shared is None
    assert system.memory.per_core(4).read * 4 == pytest.approx(system.memory.shared)


def test_what_was_measured_wins():
    measured = estimate(4.5, 83.2, 512, 8, has_l3=True)
    cpu = dataclasses.replace(profile("haswell"), measured=measured)
    assert cpu.memory_system is measured != profile("haswell").memory_system
