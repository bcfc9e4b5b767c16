"""The states of a step of an LSTM as integers of 8 bits, for the product with its weight.

Each job rounds all of them for itself::

    least, most = min(h, 0), max(h, 0)                # of all sequences
    scale, zero = the 256 steps from least to most
    distances = round(h / scale) within the steps     # from zero

Kernels of dot products read them as words of integers. Others read floats, whose products with
integer weights are exact while their sums fit in 24 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.integers import DotProducts
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.quantization import shifts_of
from tvm_sparse.formats.words import WordForm, as_words
from tvm_sparse.schedules.emit.buffers import Registers, across, filled, scratch, vector
from tvm_sparse.schedules.emit.dot_product import SumRegisters
from tvm_sparse.schedules.emit.lanes import across_lanes
from tvm_sparse.schedules.emit.run_time_words import RunTimeIntegers, RunTimeSteps, steps_of_range
from tvm_sparse.tilings.integers import dots_of

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.schedules.operators.recurrent import State
    from tvm_sparse.schedules.operators.recurrent_tile import Part
    from tvm_sparse.sizes.recurrent import Recurrent
    from tvm_sparse.tilings.recurrent import RecurrentTiling


def pack_recurrent_words(
    weight: NDArray[np.float32], rows: NDArray[np.intp], cpu: CpuProfile
) -> dict[str, NDArray[np.int32]]:
    """Pack a recurrent weight of integers for dot products.

    Parameters
    ----------
    weight : numpy.ndarray
        ``(directions, gates * hidden, hidden)``: distances of integers of 8 bits from zero.
    rows : numpy.ndarray
        ``(tiles, vectors, width)``, from `tile_rows`.
    cpu : CpuProfile
        Gives the instruction.

    Returns
    -------
    dict
        ``words0``, ``(directions, tiles, words, vectors, width)``. For products of bytes also
        ``corrections0``, ``(directions, gates * hidden)``, which an inference multiplies by the
        byte that stands for zero, and ``shifts0`` likewise if some integers did not fit in a byte.
    """
    is_of_bytes = dots_of(cpu).per_word == 4
    integers = weight.astype(np.int16)
    given = {}
    if is_of_bytes:
        shifts = np.stack([shifts_of(part) for part in integers])
        integers = (integers - shifts[..., None]).astype(np.int8)
        given["corrections0"] = integers.sum(axis=2, dtype=np.int32)
        given |= {"shifts0": shifts} if shifts.any() else {}
    tiles = [as_words(part)[rows].transpose(0, 3, 1, 2) for part in integers]
    return {"words0": np.ascontiguousarray(np.stack(tiles)), **given}


class Rounding:
    """The rounded states of all jobs.

    Parameters
    ----------
    problem : Recurrent
        The layer.
    tiling : RecurrentTiling
        Its jobs, and the lanes of its vectors.
    floats : State, optional
        Where they lie as floats, with a copy for each job.
    dots : DotProducts, optional
        The instruction of the kernel; there is one if there are no floats.
    """

    def __init__(
        self,
        problem: Recurrent,
        tiling: RecurrentTiling,
        floats: State | None,
        dots: DotProducts | None,
    ) -> None:
        self.problem, self.width, self.floats, self.dots = problem, tiling.width, floats, dots
        self.form = WordForm(dots.per_word, dots.is_signed) if dots else WordForm()
        self.vectors = -(-problem.hidden // self.width)
        self.words = self.form.words(problem.hidden)
        self._pitch = self.form.words(self.vectors * self.width)
        places = tiling.jobs * problem.directions
        self._steps = scratch(2 * places)
        if dots:
            self.memory = scratch(places * problem.batch * self._pitch, "uint32")
            self._totals = scratch(places * problem.batch, "int32")

    def round(self, state: State, old: Expr, part: Part) -> None:
        """Round the states that a step reads, for one job."""
        direction, batch = part.direction, T.int64(self.problem.batch)
        ends = [Registers(1, self.width) for _ in range(2)]
        for end in ends:
            end[0] = filled(0, self.width)

        def held(sequence: Expr, i: Expr) -> Expr:
            place = state.place(old, direction, sequence, i * self.width)
            return T.bind(state.memory[vector(place, self.width)])

        with T.serial(T.int64(0), batch) as sequence, T.serial(T.int64(0), self._count()) as i:
            value = held(sequence, i)
            for end, choose in zip(ends, (T.min, T.max), strict=True):
                end[0] = choose(end[0], value)
        least, most = (
            T.bind(across_lanes(end[0], choose))
            for end, choose in zip(ends, (T.min, T.max), strict=True)
        )
        first = self._first(part)
        for i, number in enumerate(steps_of_range(least, most)):
            T.buffer_store(self._steps, number, [first + i])
        steps = self.steps(part)
        integers = RunTimeIntegers(steps, divides=True)
        total = SumRegisters(1, self.width)
        with T.serial(T.int64(0), batch) as sequence:
            total[0] = across(T.int32(0), self.width)
            with T.serial(T.int64(0), self._count()) as i:
                distances = T.bind(integers.distances(held(sequence, i)))
                if self.floats is not None:
                    place = self.floats.place(part.share, direction, sequence, i * self.width)
                    lanes = vector(place, self.width)
                    floats = T.Cast(f"float32x{self.width}", distances)
                    T.buffer_store(self.floats.memory, floats, [lanes])
                else:
                    total[0] = total[0] + distances
                    self._store(distances, steps, self.place(part, sequence), i)
            if self.dots is not None:
                everything = across_lanes(total[0], lambda a, b: a + b)
                T.buffer_store(self._totals, everything, [self._row(part, sequence)])

    def steps(self, part: Part) -> RunTimeSteps:
        """Return the numbers that the states of a job are rounded to."""
        return RunTimeSteps(self._steps, self.form, self._first(part))

    def place(self, part: Part, sequence: Expr) -> Expr:
        """Return the place of the first word of a sequence."""
        return T.bind(self._row(part, sequence) * self._pitch)

    def total(self, part: Part, sequence: Expr) -> Expr:
        """Return the sum of the distances of all states of a sequence."""
        return T.bind(self._totals[self._row(part, sequence)])

    def _store(self, distances: Expr, steps: RunTimeSteps, place: Expr, i: Expr) -> None:
        """Store a vector of distances as words."""
        lanes, per_word = self.width, self.form.per_word
        integers = distances + across(steps.zero, lanes)
        narrow = T.Cast(f"int{32 // per_word}x{lanes}", integers)
        count = lanes // per_word
        words = T.reinterpret(f"uint32x{count}" if count > 1 else "uint32", narrow)
        T.buffer_store(self.memory, words, [vector(place + i * count, count)])

    def _count(self) -> Expr:
        return T.int64(self.vectors)

    def _place(self, part: Part) -> Expr:
        return part.share * self.problem.directions + part.direction

    def _first(self, part: Part) -> Expr:
        return T.bind(self._place(part) * 2)

    def _row(self, part: Part, sequence: Expr) -> Expr:
        return self._place(part) * self.problem.batch + sequence
