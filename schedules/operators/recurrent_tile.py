"""A tile of hidden units of a recurrent layer: its products in registers, and then its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.tirx import Select
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import Registers, across, filled, vector
from tvm_sparse.schedules.emit.dot_product import SumRegisters, add_dot_products
from tvm_sparse.schedules.emit.sizes import size
from tvm_sparse.schedules.emit.tiles import each_tile, tile_height
from tvm_sparse.schedules.emit.windows import multiply_windows
from tvm_sparse.schedules.operators.recurrent_cell import MOST_VALUES, Cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tvm.ir import Expr

    from tvm_sparse.schedules.operators.recurrent import Layer, State


@dataclass(frozen=True)
class Part:
    """What a job does in a step: a share of the tiles for a group of the sequences."""

    direction: Expr
    step: Expr
    group: Expr
    share: Expr


class Tile:
    """The hidden units of a tile in one step, for a group of sequences."""

    def __init__(self, layer: Layer, section: int, part: Part, tile: Expr, unit: Expr) -> None:
        self.layer, self.section = layer, section
        self.problem, self.buffers = layer.problem, layer.buffers
        self.direction, self.step = part.direction, part.step
        self.tile, self.unit = tile, unit
        self.width, self.vectors = layer.tiling.width, layer.tiling.vectors[section]
        self.gates = self.problem.sections[section]
        self.sums_of_sequence = len(self.gates) * self.vectors
        self.old, self.new = T.bind(self.step % 2), T.bind(1 - self.step % 2)
        self.batch = self.problem.batch // layer.tiling.groups
        self.sequence = T.bind(part.group * self.batch)
        self.height = min(tile_height(self.sums_of_sequence, layer.cpu), self.batch)
        self.sums = Registers(self.height * self.sums_of_sequence, self.width)
        self.values = Registers(MOST_VALUES, self.width)
        self.part, self.rounding = part, layer.rounding
        if self.rounding is not None:
            self.steps = self.rounding.steps(part)
            self.integers = SumRegisters(self.height * self.sums_of_sequence, self.width)

    def compute(self) -> None:
        """Compute the new states."""
        each_tile(self.batch, self.height, self._sequences)

    def _sequences(self, first: Expr, count: int) -> None:
        for i in range(count * self.sums_of_sequence):
            self.sums[i] = filled(0, self.width)
        sequences = [T.bind(self.sequence + first + i) for i in range(count)]
        times = [self._time(sequence) for sequence in sequences]
        cells = [
            Cell(self, sequence, time, is_valid, i, u)
            for i, (sequence, (is_valid, time)) in enumerate(zip(sequences, times, strict=True))
            for u in range(self.vectors)
        ]
        for cell in cells:
            cell.prefetch()
        self._multiply(first, count)
        for cell in cells:
            cell.compute()

    def _multiply(self, first: Expr, count: int) -> None:
        """Add up the products of the states and the recurrent weight."""
        sequences = [self.sequence + first + i for i in range(count)]
        if f"words{self.section}" in self.buffers:
            self._multiply_words(sequences)
            return
        state = self.layer.states["scaled" if self.section else "h"]
        copy = T.int64(0) if self.section else self.old
        if self.rounding is not None:
            state, copy = self.layer.states["rounded"], self.part.share
        rows = [
            T.bind(state.place(copy, self.direction, sequence, T.int64(0)))
            for sequence in sequences
        ]
        if f"weight{self.section}" in self.buffers:
            self._multiply_dense(state, rows)
        elif f"windows{self.section}" in self.buffers:
            self._multiply_windows(state, rows)
        else:
            self._multiply_columns(state, rows)

    def _multiply_dense(self, state: State, rows: Sequence[Expr]) -> None:
        weight, lanes = self.buffers[f"weight{self.section}"], vector(T.int64(0), self.width)
        with T.serial(T.int64(0), T.int64(self.problem.hidden)) as k:
            weights = [
                T.bind(weight[self.direction, self.tile, k, n, lanes])
                for n in range(self.sums_of_sequence)
            ]
            for i, row in enumerate(rows):
                value = T.bind(across(state.memory[row + k], self.width))
                for n, vector_of_weights in enumerate(weights):
                    s = i * self.sums_of_sequence + n
                    self.sums[s] = self.sums[s] + value * vector_of_weights

    def _multiply_words(self, sequences: Sequence[Expr]) -> None:
        """Multiply words of integers, and make floats of the exact sums."""
        rounding, sums, count = self.rounding, self.integers, self.sums_of_sequence
        assert rounding is not None
        assert rounding.dots is not None
        weight, lanes = self.buffers[f"words{self.section}"], vector(T.int64(0), self.width)
        places = [rounding.place(self.part, sequence) for sequence in sequences]
        for s in range(len(places) * count):
            sums[s] = across(T.int32(0), self.width)
        with T.serial(T.int64(0), T.int64(rounding.words)) as word:
            weights = [
                T.bind(weight[self.direction, self.tile, word, n, lanes]) for n in range(count)
            ]
            for i, place in enumerate(places):
                x = T.bind(across(rounding.memory[place + word], self.width))
                for n, vector_of_weights in enumerate(weights):
                    s = i * count + n
                    sums[s] = add_dot_products(rounding.dots, sums[s], x, vector_of_weights)
        for i, sequence in enumerate(sequences):
            total = rounding.total(self.part, sequence)
            for n in range(count):
                gate, u = self.gates[n // self.vectors], n % self.vectors
                first = gate * self.problem.hidden + self.unit + u * self.width
                whole = self._without_zero(sums[i * count + n], total, first)
                self.sums[i * count + n] = T.Cast(f"float32x{self.width}", whole)

    def _without_zero(self, sums: Expr, total: Expr, first: Expr) -> Expr:
        """Return sums of the distances from zero and of the weights before their shift.

        `total` is the sum of these distances, and `first` the first row of the weight.
        """
        place = (self.direction, vector(first, self.width))
        for name, factor in (("corrections", T.int32(0) - self.steps.zero), ("shifts", total)):
            if f"{name}{self.section}" in self.buffers:
                numbers = self.buffers[f"{name}{self.section}"][place]
                sums = sums + numbers * across(factor, self.width)
        return sums

    def _steps(self) -> tuple[Expr, Expr]:
        """Return the first step of a sparse weight in the tile, and the end of the last one."""
        starts = self.buffers[f"starts{self.section}"]
        first, end = (starts[self.direction, self.tile + i] for i in range(2))
        return T.bind(T.Cast("int64", first)), T.bind(T.Cast("int64", end))

    def _multiply_windows(self, state: State, rows: Sequence[Expr]) -> None:
        """Multiply by a `WindowSparse`."""
        arrays = [self.buffers[f"{name}{self.section}"] for name in ("windows", "places", "values")]

        def part(row: int, place: Expr) -> Expr:
            return state.memory[vector(rows[row] + place, self.width)]

        multiply_windows(self._steps(), arrays, part, len(rows), self.sums_of_sequence, self.sums)

    def _multiply_columns(self, state: State, rows: Sequence[Expr]) -> None:
        """Multiply by a `ColumnSparse`: every factor is loaded by itself.

        One load brings the columns of a vector of values.
        """
        columns, values = (self.buffers[f"{name}{self.section}"] for name in ("columns", "values"))
        lanes = vector(T.int64(0), self.width)
        start, end = self._steps()
        with T.serial(T.int64(0), end - start) as i:
            step = T.bind(start + i)
            for n in range(self.sums_of_sequence):
                bits = T.bind(T.reinterpret(f"uint{16 * self.width}", columns[step, n, lanes]))
                places = [
                    T.bind(T.Cast("int64", (bits >> (16 * lane)) & 0xFFFF))
                    for lane in range(self.width)
                ]
                weights = T.bind(values[step, n, lanes])
                for r, row in enumerate(rows):
                    factors = [state.memory[row + place] for place in places]
                    s = r * self.sums_of_sequence + n
                    chosen = T.Shuffle(factors, list(range(self.width)))
                    self.sums[s] = self.sums[s] + chosen * weights

    def _time(self, sequence: Expr) -> tuple[Expr | None, Expr]:
        """Return whether the step belongs to a sequence, and which of its inputs it reads."""
        problem, step = self.problem, self.step
        is_valid, length = None, size(problem.steps)
        if "lengths" in self.buffers:
            length = T.bind(T.Cast("int64", self.buffers["lengths"][sequence]))
            is_valid = T.bind(step < length)
        backwards = length - 1 - step
        if is_valid is not None:
            backwards = Select(is_valid, backwards, step)
        if problem.directions == 2:
            return is_valid, T.bind(Select(T.EQ(self.direction, T.int64(0)), step, backwards))
        return is_valid, T.bind(backwards) if problem.reverse else step
