"""Weights of four or eight bits with a scale for each block of inputs, as ONNX files hold them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", bound=np.generic)

BITS = (4, 8)
"""Bits of a code."""


@dataclass(frozen=True)
class BlockCodes:
    """A weight ``(code - zero) * scale``.

    Attributes
    ----------
    codes : numpy.ndarray
        uint8, ``(N, K)``, below ``2 ** bits``.
    scales : numpy.ndarray
        float32, ``(N, blocks)``.
    zeros : numpy.ndarray
        uint8, ``(N, blocks)``: the code that stands for zero.
    bits : int
        Bits of a code, one of `BITS`.
    block : int
        Neighbouring input channels that share a scale; those of the last block may be fewer.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]
    bits: int
    block: int

    @property
    def shape(self) -> tuple[int, int]:
        """Output and input channels."""
        n, k = self.codes.shape
        return n, k

    @property
    def blocks(self) -> int:
        """Blocks of an output channel."""
        return self.scales.shape[1]

    @property
    def middle(self) -> int:
        """The code that stands for zero in a symmetric weight."""
        return 1 << (self.bits - 1)

    @property
    def is_symmetric(self) -> bool:
        """Whether `middle` stands for zero in all blocks."""
        return bool((self.zeros == self.middle).all())

    @property
    def differences(self) -> NDArray[np.int16]:
        """The codes less their zeros, ``(N, K)``."""
        return self.codes.astype(np.int16) - self._spread(self.zeros)

    @property
    def density(self) -> float:
        """The share of the weight that is not zero."""
        nonzero = (self.codes != self._spread(self.zeros)) & self._spread(self.scales != 0)
        return float(np.count_nonzero(nonzero)) / max(nonzero.size, 1)

    def digest(self) -> bytes:
        """Return what tells this weight from others."""
        content = hashlib.blake2b(repr((self.bits, self.block, self.codes.shape)).encode())
        for array in (self.codes, self.scales, self.zeros):
            content.update(np.ascontiguousarray(array).data)
        return content.digest()

    def to_dense(self) -> NDArray[np.float32]:
        """Return the weight, ``(N, K)``, float32."""
        return self.differences.astype(np.float32) * self._spread(self.scales)

    def padded(self, rows: int, columns: int) -> BlockCodes:
        """Return the weight with zeros behind it, so that whole tiles hold it.

        Parameters
        ----------
        rows : int
            The output channels become a multiple of it.
        columns : int
            The input channels become a multiple of the block, which is one of it.
        """
        n, k = self.shape
        more = -n % rows
        if self.block % columns:
            raise ValueError(f"blocks of {self.block} channels are no multiple of {columns}")
        zeros = np.pad(self.zeros, ((0, more), (0, 0)), constant_values=self.middle)
        codes = np.repeat(zeros, self.block, axis=1)
        codes[:n, :k] = self.codes
        scales = np.pad(self.scales, ((0, more), (0, 0)))
        return BlockCodes(codes, scales, zeros, self.bits, self.block)

    def stacked(self, matrices: int, rows: int) -> BlockCodes:
        """Return matrices that lie one below the other, each with zeros behind it.

        Parameters
        ----------
        matrices : int
            Matrices of equal size.
        rows : int
            The output channels of each become a multiple of it.
        """
        n = self.shape[0] // matrices
        more = -n % rows

        def padded(array: NDArray[_T], fill: int) -> NDArray[_T]:
            split = array.reshape(matrices, n, -1)
            wide = np.pad(split, ((0, 0), (0, more), (0, 0)), constant_values=fill)
            return wide.reshape(matrices * (n + more), -1)

        zeros = padded(self.zeros, self.middle)
        codes, scales = padded(self.codes, self.middle), padded(self.scales, 0)
        return BlockCodes(codes, scales, zeros, self.bits, self.block)

    def _spread(self, of_blocks: NDArray[_T]) -> NDArray[_T]:
        """Return what the blocks share for each input channel."""
        return np.repeat(of_blocks, self.block, axis=1)[:, : self.codes.shape[1]]


def unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return the numbers of `bits` bits in rows of bytes, the lowest bits first."""
    if bits == 8:
        return packed
    count, mask = 8 // bits, np.uint8((1 << bits) - 1)
    numbers = np.empty((len(packed), packed.shape[1] * count), np.uint8)
    for i in range(count):
        numbers[:, i::count] = packed >> np.uint8(i * bits) & mask
    return numbers


def in_bytes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return rows of codes of 4 or 8 bits as bytes, the first code in the low half."""
    if bits == 8:
        return codes
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return even[:, 0::2] | even[:, 1::2] << np.uint8(4)


def misfit(
    sizes: tuple[int, int, int, int],
    codes: NDArray[Any],
    scales: NDArray[Any],
    zeros: NDArray[Any] | None,
) -> str:
    """Return why arrays are no packed weight of some sizes; an empty string if they are one.

    Parameters
    ----------
    sizes : tuple of int
        Output channels, input channels, bits of a code, and channels of a block.
    codes, scales, zeros : numpy.ndarray
        Codes in bytes, whole blocks of each output channel; a scale for each block; and, unless 0
        is the middle code, a zero for each block, in bytes or as another type.
    """
    n, k, bits, block = sizes
    if min(n, k, block) < 1 or bits not in (2, *BITS) or block * bits % 8:
        return f"no weight has N={n}, K={k}, bits={bits} and block_size={block}"
    blocks = -(-k // block)
    wanted = {
        "bytes of codes": (codes.size, n * blocks * block * bits // 8),
        "scales": (scales.size, n * blocks),
    }
    if zeros is not None:
        of_row = -(-blocks * bits // 8) if zeros.dtype == np.uint8 else blocks
        wanted["zero points"] = (zeros.size, n * of_row)
    for name, (found, needed) in wanted.items():
        if found != needed:
            text = f"N={n}, K={k}, bits={bits} and block_size={block} need {needed}"
            return f"it has {found} {name}, and {text}"
    return "" if codes.dtype == np.uint8 else f"its codes are {codes.dtype}, not uint8"
