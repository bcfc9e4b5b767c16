"""Weights of 4 or 8 bits with a scale a block, as ``com.microsoft.MatMulNBits`` stores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.errors import InputError, ModelError


@dataclass(frozen=True)
class QuantizedRows:
    """A weight of N rows (outputs) and K columns in blocks of columns.

    Attributes
    ----------
    codes : array of uint8
        (N, blocks, block * bits / 8): the codes; of two in a byte, the low half is the first one.
    scales : array of float32
        (N, blocks).
    columns : int
        K; the codes of a last block that K does not fill do not matter.
    bits : int
        4 or 8.
    zero_points : array of uint8, optional
        (N, blocks), the code that means 0 in each block; without it, that is 8 of 16 or 128 of
        256.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    columns: int
    bits: int = 4
    zero_points: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other.

        Raises
        ------
        ModelError
            If the shapes disagree, or a scale is no number.
        """
        blocks = -(-self.columns // self.block)
        fits = self.codes.shape[:2] == self.scales.shape == (self.rows, blocks)
        if self.zero_points is not None:
            fits = fits and self.zero_points.shape == self.scales.shape
        if self.bits not in (4, 8) or not fits:
            raise ModelError(
                f"codes {self.codes.shape} and scales {self.scales.shape} of {self.bits} bits are "
                f"no weight of {self.columns} columns"
            )
        if not np.isfinite(self.scales).all():
            raise ModelError("a scale of a quantized weight is infinite or NaN")

    @property
    def rows(self) -> int:
        """N, the number of outputs."""
        return self.codes.shape[0]

    @property
    def block(self) -> int:
        """The columns that share a scale."""
        return self.codes.shape[2] * 8 // self.bits

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.rows, self.columns

    def unpacked(self) -> NDArray[np.uint8]:
        """Return the codes one a byte, (N, blocks, block)."""
        if self.bits == 8:
            return self.codes
        pairs = np.stack((self.codes & 15, self.codes >> 4), axis=-1)
        return pairs.reshape(*self.codes.shape[:2], self.block)

    def packed_zero_points(self) -> NDArray[np.uint8] | None:
        """Return the zero points as the operator wants them, (N, bytes a row), two to a byte."""
        if self.zero_points is None or self.bits == 8:
            return self.zero_points
        return pack_nibbles(np.pad(self.zero_points, ((0, 0), (0, self.scales.shape[1] % 2))))

    def dense(self) -> NDArray[np.float32]:
        """Return the weight as float32, (N, K)."""
        zero: NDArray | int = 1 << (self.bits - 1)
        if self.zero_points is not None:
            zero = self.zero_points[..., None].astype(np.float32)
        values = (self.unpacked().astype(np.float32) - zero) * self.scales[..., None]
        return values.reshape(self.rows, -1)[:, : self.columns]

    def take(self, order: NDArray[np.integer]) -> QuantizedRows:
        """Return the rows in another order."""
        points = None if self.zero_points is None else self.zero_points[order]
        return QuantizedRows(self.codes[order], self.scales[order], self.columns, self.bits, points)

    def stacks_with(self, other: object) -> bool:
        """Return whether a weight can be put below this one."""
        return (
            isinstance(other, QuantizedRows)
            and (other.bits, other.block, other.columns) == (self.bits, self.block, self.columns)
            and (other.zero_points is None) == (self.zero_points is None)
        )


def stack_rows(parts: Sequence[QuantizedRows]) -> QuantizedRows:
    """Return weights below each other; each `QuantizedRows.stacks_with` the first."""
    first = parts[0]
    points = None
    if first.zero_points is not None:
        found = (part.zero_points for part in parts)
        points = np.concatenate([each for each in found if each is not None])
    return QuantizedRows(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        first.columns,
        first.bits,
        points,
    )


def stacked_or_none(
    weights: Sequence[NDArray[np.floating] | QuantizedRows],
) -> NDArray[np.floating] | QuantizedRows | None:
    """Return weights below each other, None if they are of different kinds."""
    first = weights[0]
    if isinstance(first, QuantizedRows):
        alike = [w for w in weights if isinstance(w, QuantizedRows) and first.stacks_with(w)]
        return stack_rows(alike) if len(alike) == len(weights) else None
    arrays = [weight for weight in weights if isinstance(weight, np.ndarray)]
    return np.concatenate(arrays) if len(arrays) == len(weights) else None


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return codes of 4 bits two to a byte along the last axis, the first one in the low half."""
    return codes[..., ::2] | (codes[..., 1::2] << np.uint8(4))


def quantize_rows(weight: NDArray[np.floating], block: int = 32) -> QuantizedRows:
    """Round a weight to symmetric int4: zeros stay exactly zero, as code 8.

    The value of the largest magnitude of a block becomes -8, as in GGUF's Q4_0 and in ONNX
    Runtime's quantizer, so that all 16 codes are used; scales are numbers of float16.

    Parameters
    ----------
    weight : array of float
        (N, K).
    block : int
        Columns that share a scale: a power of two from 16 on.

    Raises
    ------
    InputError
        If `block` is another number.
    ModelError
        If the weight holds infinities or NaN, or a value that float16 cannot scale.
    """
    if block < 16 or block & (block - 1):
        raise InputError(f"blocks of {block} columns: a block is a power of two from 16 on")
    rows, columns = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -columns % block))).astype(np.float32)
    blocks = padded.reshape(rows, -1, block)
    largest, smallest = blocks.max(axis=2), blocks.min(axis=2)
    extreme = np.where(largest > -smallest, largest, smallest)
    with np.errstate(over="ignore"):
        scales = (extreme / np.float32(-8)).astype(np.float16).astype(np.float32)
    if not np.isfinite(scales).all():
        raise ModelError("a weight holds infinities, NaN or values beyond 524000: no int4 for it")
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    codes = np.clip(np.rint(blocks * inverse[..., None]) + 8, 0, 15).astype(np.uint8)
    return QuantizedRows(pack_nibbles(codes), scales, columns)
