"""Numbers of 8 bits for floats: ``(q - zero_point) * scale``, as ONNX defines them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.dtypes import DType


@dataclass(frozen=True)
class Quantization:
    """The numbers that a tensor of activations is rounded to.

    Attributes
    ----------
    scale : float
        Distance of two neighbouring numbers, a positive float32.
    zero_point : int
        The integer that stands for zero.
    low, high : int
        The least and the largest integer.
    tie : int
        The parity of the distance from zero to which a value goes that lies in the middle of two:
        0 for even ones, as ONNX defines it. 1 stands for even integers where zero is an odd one.
    """

    scale: float
    zero_point: int
    low: int
    high: int
    tie: int = 0

    @property
    def numbers(self) -> tuple[float, ...]:
        """All numbers; `tie` is left out where it is 0."""
        return astuple(self)[: None if self.tie else -1]

    def stands_for_same(self, other: Quantization) -> bool:
        """Return whether integers stand for the same numbers."""
        return replace(self, tie=other.tie) == other

    @property
    def has_byte(self) -> bool:
        """Whether its integers fit in a byte."""
        return self.high - self.low <= 255

    def integers(self, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the integers of floats."""
        steps = x.astype(np.float64) * np.float64(self.inverse)
        steps = np.rint(steps + self.tie) - self.tie
        lowest, highest = self.low - self.zero_point, self.high - self.zero_point
        return np.clip(steps, lowest, highest).astype(np.int32) + np.int32(self.zero_point)

    def rounded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the floats that the integers of `x` stand for."""
        steps = (self.integers(x) - self.zero_point).astype(np.float32)
        return steps * np.float32(self.scale)

    @property
    def inverse(self) -> np.float32:
        """Steps of a distance of 1."""
        return np.float32(1) / np.float32(self.scale)


@dataclass(frozen=True)
class RoundedBefore:
    """That a layer takes words of integers whose scale and zero point only an inference knows.

    Attributes
    ----------
    channels : int
        Channels of the input.
    dtype : DType
        The type of the layer's result.
    """

    channels: int
    dtype: DType


@dataclass(frozen=True)
class QuantizedWeight:
    """The integers of a quantized layer.

    Attributes
    ----------
    values : numpy.ndarray
        int8, ``(out_channels, in_channels)`` or that of a convolution; 0 stands for zero. int16 if
        some are farther from zero than int8 reaches, as those of uint8 weights may be.
    scale : numpy.ndarray
        float32, ``(out_channels,)``: the distance of two neighbouring weights.
    steps : Quantization, optional
        The numbers that the layer rounds its input to; None if only an inference knows them.
    """

    values: NDArray[Any]
    scale: NDArray[np.float32]
    steps: Quantization | None

    @property
    def is_wide(self) -> bool:
        """Whether its values need more than a byte."""
        return self.values.dtype != np.int8


def shifts_of(values: NDArray[Any]) -> NDArray[np.int32]:
    """Return what makes the values of each output channel fit in int8, subtracted from them.

    They are distances of 8-bit integers from their zero point, and 0 fits behind it, too.
    """
    flat = values.reshape(len(values), -1).astype(np.int32)
    below = np.minimum(flat.min(axis=1, initial=0) + 128, 0)
    return below + np.maximum(flat.max(axis=1, initial=0) - 127, 0)


@dataclass(frozen=True)
class Roundings:
    """The numbers that parts of an attention are rounded to, one quantization after another.

    Attributes
    ----------
    scores : tuple of Quantization
        Those of the scaled scores.
    biased : tuple of Quantization
        Those of the scores with their bias.
    weights : tuple of Quantization
        Those of the weights, which the softmax computes.
    """

    scores: tuple[Quantization, ...] = ()
    biased: tuple[Quantization, ...] = ()
    weights: tuple[Quantization, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is rounded."""
        return not (self.scores or self.biased or self.weights)

    def scaled(self, factor: float) -> Roundings:
        """Return the roundings of scores that are multiplied by a positive number."""
        scores = (replace(steps, scale=steps.scale * factor) for steps in self.scores)
        return replace(self, scores=tuple(scores))

    def to_fields(self) -> dict[str, list[list[float]]]:
        """Return the numbers of all quantizations, by the name of the part."""
        parts = vars(self).items()
        return {name: [list(map(float, s.numbers)) for s in steps] for name, steps in parts}

    @staticmethod
    def from_fields(fields: Mapping[str, Sequence[Sequence[float]]]) -> Roundings:
        """Return the inverse of `to_fields`."""

        def quantization(numbers: Sequence[float]) -> Quantization:
            scale, *integers = numbers
            return Quantization(float(scale), *(int(number) for number in integers))

        return Roundings(**{name: tuple(map(quantization, fields[name])) for name in fields})


NOT_ROUNDED = Roundings()
"""What an attention of floats rounds: nothing."""


def dequantized(
    values: NDArray[Any],
    scale: NDArray[np.float32],
    zero_point: NDArray[Any],
    axis: int,
) -> NDArray[np.float32]:
    """Return the floats that integers stand for.

    Parameters
    ----------
    values : ndarray
        Integers of any type.
    scale, zero_point : ndarray
        One number, or one for each place of an axis.
    axis : int
        The axis of `values`.
    """
    steps = values.astype(np.int64) - along(zero_point, axis, values.ndim).astype(np.int64)
    return (steps * along(scale, axis, values.ndim)).astype(np.float32)


def along(numbers: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """Return a number, or numbers of an axis, in a shape that broadcasts to tensors of a rank."""
    if numbers.size == 1:
        return numbers.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return numbers.reshape(shape)
