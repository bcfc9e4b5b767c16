"""The memory of the caches of a session, as arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.sizes.cached_attention import BLOCK
from tvm_sparse.sizes.decoder import CacheSpec

ALIGNMENT = 64
"""Bytes at a multiple of which caches begin: compiled code loads whole vectors."""

_INTEGERS = "int8"


class CacheArrays:
    """The caches of the keys and values of an attention.

    The system gives their memory page by page, when it is written.

    Parameters
    ----------
    spec : CacheSpec
        What they are.
    blocks : int
        The blocks that they have.

    Attributes
    ----------
    elements : list of numpy.ndarray
        Keys and values, in the order of the kernels.
    """

    def __init__(self, spec: CacheSpec, blocks: int) -> None:
        self._spec = spec
        self.elements: list[NDArray[np.generic]] = []
        self._scales: list[NDArray[np.float32]] = []
        for shape in spec.shapes(blocks):
            size = math.prod(shape) * np.dtype(spec.dtype).itemsize
            behind = 4 * spec.kv_heads * blocks * BLOCK if spec.dtype == _INTEGERS else 0
            memory = np.zeros(size + behind + ALIGNMENT, np.uint8)
            begin = -memory.ctypes.data % ALIGNMENT
            elements = memory[begin : begin + size].view(spec.dtype).reshape(shape)
            scales = memory[begin + size : begin + size + behind].view(np.float32)
            self.elements.append(elements)
            self._scales.append(scales.reshape(spec.kv_heads, -1))

    def copies(self, count: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """Return keys and values of the first positions, ``(1, heads, count, head_dim)``.

        Integers become the float32 numbers that they stand for.
        """
        spec, (keys, values) = self._spec, self.elements
        of_keys = keys.transpose(0, 1, 2, 4, 3).reshape(spec.kv_heads, -1, spec.head_dim)
        of_values = values.transpose(0, 1, 3, 2, 4).reshape(*of_keys.shape[:2], -1)
        both = of_keys[None, :, :count], of_values[None, :, :count, : spec.head_dim]
        if spec.dtype != _INTEGERS:
            return both
        key_scales, value_scales = (scales[None, :, :count, None] for scales in self._scales)
        return both[0].astype(np.float32) * key_scales, both[1].astype(np.float32) * value_scales
