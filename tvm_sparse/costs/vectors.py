"""Cycles of kernels that do little with each vector: pooling, copies, elementwise operators.

As in the cost models of convolutions and linear layers, all data lie in L1.
"""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import LOADS_PER_CYCLE, OPERATIONS_PER_CYCLE, STORES_PER_CYCLE
from tvm_sparse.sizes.tensor import Tensor


def vectors_of(tensor: Tensor, cpu: CpuProfile) -> int:
    """Return how many vectors hold a tensor's panels."""
    return tensor.elements // cpu.vector_width(tensor.lanes, tensor.dtype)


def vector_cycles(vectors: int, loads: float, stores: float, operations: float = 0.0) -> float:
    """Return the cycles of a loop over vectors, summed over cores.

    Parameters
    ----------
    vectors : int
        Iterations.
    loads, stores, operations : float
        Vector loads, vector stores and vector operations of an iteration.
    """
    limits = (loads / LOADS_PER_CYCLE, stores / STORES_PER_CYCLE, operations / OPERATIONS_PER_CYCLE)
    return vectors * max(limits)
