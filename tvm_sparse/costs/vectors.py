"""Cycles of kernels that do little with each vector: pooling, copies, elementwise operators.

As in the cost models of convolutions and linear layers, all data lie in L1.
"""

from __future__ import annotations

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import LOADS_PER_CYCLE, OPERATIONS_PER_CYCLE, STORES_PER_CYCLE
from tvm_sparse.sizes.tensor import Tensor

FUNCTION_OPERATIONS = {
    "relu6": 2.0,
    "hardswish": 5.0,
    "divide": 19.0,
    "exp": 14.0,
    "sigmoid": 25.0,
    "silu": 26.0,
    "gelu": 28.0,
    "gelu_tanh": 28.0,
    "tanh": 34.0,
}
"""Cost of functions of a vector, in vector operations, measured on a Xeon in AVX-512 code. All
functions that are not listed cost about one operation."""


def vectors_of(tensor: Tensor, cpu: CpuProfile) -> int:
    """Return how many vectors hold a tensor's panels."""
    lanes = tensor.lanes // cpu.vector_width(tensor.lanes)
    return tensor.images * tensor.rows * tensor.channels * lanes


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
