"""Words of integers whose scale and zero point only an inference knows.

They are a tensor of two float32 numbers, the steps: the scale, and how far the zero point lies
above the least integer of the type, which is 0 to 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.dtypes import DType
from tvm_sparse.formats.words import WordForm
from tvm_sparse.schedules.emit.buffers import across, converted, number
from tvm_sparse.schedules.emit.words import ROUNDING, Words, joined, with_added

if TYPE_CHECKING:
    from tvm.ir import Expr

MOST = 255
"""How far the largest integer lies above the least one."""

ROUNDING_BITS = 0x4B400000
"""The bits of `ROUNDING`."""

LEAST_SCALE = 2.0**-100
"""The inverse of a smaller scale may be infinite."""


class RunTimeSteps:
    """The numbers that an inference rounds a tensor to, as scalars.

    Parameters
    ----------
    steps : Expr
        The memory that holds them.
    form : WordForm
        What words look like.
    first : Expr or int
        The place of the first of them.
    """

    def __init__(self, steps: Expr, form: WordForm, first: Expr | int = 0) -> None:
        self.form = form
        self.scale: Expr = T.bind(steps[T.int64(0) + first])
        self.above: Expr = T.bind(steps[T.int64(1) + first])
        zero = T.Cast("int32", self.above) - (128 if form.is_signed else 0)
        self.zero: Expr = T.bind(T.int32(0) if form.per_word == 2 else zero)

    def zeros(self, lanes: int) -> Expr:
        """Return words whose integers all stand for zero."""
        byte = T.Cast("uint32", T.bitwise_and(self.zero, T.int32(255)))
        return across(T.bind(byte * T.uint32(0x01010101)), lanes)


class RunTimeIntegers(Words):
    """Values of panels as integers, rounded as ONNX Runtime rounds them: by a division.

    Parameters
    ----------
    steps : RunTimeSteps
        The numbers.
    divides : bool
        Whether each value is divided by the scale. Otherwise the quotient follows from a product
        with the inverse and what that leaves of the value, which takes a fraction of the time. It
        needs a scale from `LEAST_SCALE` on, and steps that reach from the least value to the
        largest one.
    """

    def __init__(self, steps: RunTimeSteps, *, divides: bool) -> None:
        self.steps, self.divides = steps, divides
        self.per_word = steps.form.per_word
        self._inverse: Expr = T.bind(number(1) / steps.scale)
        self._low: Expr = T.bind(number(ROUNDING) - steps.above)
        self._high: Expr = T.bind(number(ROUNDING + MOST) - steps.above)

    def of(self, values: Sequence[Expr]) -> list[Expr]:
        """Return words of the nearest integers; ties go to the even distance from zero."""
        words = joined([self._moved(value) for value in values], self.per_word)
        if self.per_word == 2:
            return [words]
        return [with_added(words, T.Cast("int8", self.steps.zero))]

    def distances(self, value: Expr) -> Expr:
        """Return the distances of the nearest integers from the zero point, as int32."""
        lanes = value.ty.dtype.lanes
        return self._moved(value) - across(T.int32(ROUNDING_BITS), lanes)

    def _moved(self, value: Expr) -> Expr:
        """Return int32 values whose low bits are the distances from the zero point, in steps."""
        lanes = value.ty.dtype.lanes
        steps = self._quotient(converted(value, DType.FLOAT32), lanes)
        moved = steps + across(number(ROUNDING), lanes)
        moved = T.min(T.max(moved, across(self._low, lanes)), across(self._high, lanes))
        return T.reinterpret(f"int32x{lanes}" if lanes > 1 else "int32", moved)

    def _quotient(self, value: Expr, lanes: int) -> Expr:
        """Return values divided by the scale."""
        scale, inverse = (across(n, lanes) for n in (self.steps.scale, self._inverse))
        if self.divides:
            # The sum with `ROUNDING` has digits for this many steps; the bounds are nearer.
            most = float(1 << 21)
            near = T.max(value / scale, across(number(-most), lanes))
            return T.min(near, across(number(most), lanes))
        nearly = T.bind(value * inverse)
        left = _multiply_add(nearly, T.bind(across(number(0) - self.steps.scale, lanes)), value)
        return _multiply_add(T.bind(left), inverse, nearly)


class ReadyWords(Words):
    """Words that lie in panels already, one for each channel of these panels.

    Parameters
    ----------
    form : WordForm
        What they look like.
    """

    per_word = 1

    def __init__(self, form: WordForm) -> None:
        self.form = form

    def read(self, steps: Expr) -> RunTimeSteps:
        """Read the numbers of the rounding in the function that is being built."""
        self.steps = RunTimeSteps(steps, self.form)
        return self.steps

    def of(self, values: Sequence[Expr]) -> list[Expr]:
        """Return the words themselves."""
        return list(values)

    def zeros(self, lanes: int) -> Expr:
        """Return words whose integers all stand for zero."""
        return self.steps.zeros(lanes)


def steps_of_range(least: Expr, most: Expr) -> tuple[Expr, Expr]:
    """Return the scale of a range that contains 0, and how far its zero point lies above 0."""
    zero, one = number(0), number(1)
    extent = T.bind(most - least)
    step = T.bind(extent / number(MOST))
    scale = T.bind(T.Select(T.EQ(extent, zero), one, step))
    above = T.nearbyint(T.min(T.max((zero - least) / scale, zero), number(MOST)))
    return scale, above


def _multiply_add(a: Expr, b: Expr, c: Expr) -> Expr:
    """Return ``a * b + c``, rounded once where the processor can."""
    return T.call_llvm_pure_intrin(a.ty.dtype, "llvm.fmuladd", a, b, c)
