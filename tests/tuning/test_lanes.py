"""Lanes of panels that the tuner tries."""

from __future__ import annotations

from tvm_sparse.cpu.profile import profile
from tvm_sparse.records.lookups import TokenNetwork
from tvm_sparse.tuning.lanes import lanes_candidates

CPU = profile("x86-64-v4")


def test_lanes_are_whole_vectors_that_pad_little():
    network = TokenNetwork(((1, 96, 256, 256, 0.1),) * 4)
    first, *others = lanes_candidates(network, CPU, 1.3)
    assert first.lanes == CPU.panel_lanes(96)
    assert others
    assert all(other.lanes % CPU.vector_lanes() == 0 for other in others)
    assert all(-(-96 // other.lanes) * other.lanes <= 1.3 * 96 for other in others)
    assert lanes_candidates(TokenNetwork(((1, 16, 256, 256, 0.1),)), CPU, 1.3) == []
    assert lanes_candidates(TokenNetwork(()), CPU, 1.3) == []
