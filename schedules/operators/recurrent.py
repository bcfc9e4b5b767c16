"""LSTM, GRU and RNN: all steps of a layer in one function.

The product of the inputs with their weights, `xw`, is computed before, for all steps at once::

    for direction: for step:                      # or all jobs of all directions in each step
        for section: for tile:                    # hidden units of all gates of a section
            for sequences that fit in registers:
                sums[:] = 0
                for k in hidden: sums += h[step % 2, k] * weight[tile, k]
                h[1 - step % 2, tile], c[...] = cell(xw[time] + sums, c[step % 2, tile])
                y[time, tile] = h

A step reads the states of one buffer and writes those of the other, so that tiles may overlap and
threads may share a step. A GRU without `linear_before_reset` has two sections, because its
candidate reads the whole state that the reset gate scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Select
from tvm.tirx.script import builder as T

from tvm_sparse.formats.recurrent import WINDOW
from tvm_sparse.schedules.emit.buffers import (
    Registers,
    across,
    argument,
    filled,
    number,
    scratch,
    vector,
)
from tvm_sparse.schedules.emit.recurrent_activations import activation
from tvm_sparse.schedules.emit.tiles import each_tile, tile_height
from tvm_sparse.schedules.operators.recurrent_cell import MOST_VALUES, Cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import tvm
    from tvm.ir import Expr

    from tvm_sparse.cpu.profile import CpuProfile
    from tvm_sparse.sizes.recurrent import Recurrent
    from tvm_sparse.tilings.recurrent import RecurrentTiling

SPARSE_WEIGHT = ("starts", "windows", "places", "values")
"""The operands that hold a `WindowSparse`; the number of the section follows the names."""

_PERMUTATION = "llvm.x86.avx512.vpermi2var.ps.512"


def recurrent(
    problem: Recurrent,
    tiling: RecurrentTiling,
    operands: Mapping[str, tuple[tuple[int, ...], str]],
    cpu: CpuProfile,
) -> tvm.tirx.PrimFunc:
    """Build the function of a layer.

    Parameters
    ----------
    problem : Recurrent
        The layer.
    tiling : RecurrentTiling
        How its steps are cut.
    operands : mapping
        Shape and dtype of each operand: those of `Recurrent.operands` that the layer has, and
        ``weight0``, ... for each section, or the arrays of `SPARSE_WEIGHT` for each.
    cpu : CpuProfile
        Gives the number of registers.

    Returns
    -------
    PrimFunc
        Takes the operands, and then the results of `Recurrent.results`.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name(problem.cell)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        given = {
            name: argument(name, *shape, dtype=dtype) for name, (shape, dtype) in operands.items()
        }
        results = {name: argument(name, *shape) for name, shape in problem.results().items()}
        with T.sblock(problem.cell):
            T.reads(*(_whole(given[name], shape) for name, (shape, _) in operands.items()))
            T.writes(*(_whole(results[name], shape) for name, shape in problem.results().items()))
            Layer(problem, tiling, {**given, **results}, cpu).compute()
    return builder.get()


def _whole(buffer: Expr, shape: Sequence[int]) -> Expr:
    return buffer[tuple(slice(0, extent) for extent in shape)]


class State:
    """A state of all sequences in flat memory, twice if a step may not overwrite what it reads."""

    def __init__(self, problem: Recurrent, copies: int) -> None:
        self.problem = problem
        # A window may begin at the last hidden unit; what lies behind it is 0.
        self.row = -(-problem.hidden // 16) * 16 + WINDOW
        self.size = copies * problem.directions * problem.batch * self.row
        self.memory = scratch(self.size)

    def place(self, copy: Expr | int, direction: Expr, sequence: Expr, unit: Expr) -> Expr:
        """Return the place of a hidden unit."""
        row = (copy * self.problem.directions + direction) * self.problem.batch + sequence
        return row * self.row + unit

    def initialize(self, initial: Expr | None) -> None:
        """Set all of it to 0, and the copy that the first step reads to its initial values."""
        with T.serial(T.int64(0), T.int64(self.size)) as i:
            T.buffer_store(self.memory, number(0), [i])
        if initial is not None:
            for index in _each(self.problem):
                T.buffer_store(self.memory, initial[index], [self.place(T.int64(0), *index)])

    def finish(self, result: Expr) -> None:
        """Copy the values that the last step wrote."""
        last = T.int64(self.problem.steps % 2)
        for index in _each(self.problem):
            T.buffer_store(result, self.memory[self.place(last, *index)], list(index))


def _each(problem: Recurrent) -> Any:
    with (
        T.serial(T.int64(0), T.int64(problem.directions)) as direction,
        T.serial(T.int64(0), T.int64(problem.batch)) as sequence,
        T.serial(T.int64(0), T.int64(problem.hidden)) as unit,
    ):
        yield direction, sequence, unit


class Layer:
    """The loops of a layer."""

    def __init__(
        self,
        problem: Recurrent,
        tiling: RecurrentTiling,
        buffers: Mapping[str, Expr],
        cpu: CpuProfile,
    ) -> None:
        self.problem, self.tiling, self.buffers, self.cpu = problem, tiling, buffers, cpu
        self.functions = [activation(name) for name in problem.activations.split()]
        self.states = {name[-1]: State(problem, 2) for name in problem.results() if name != "y"}
        if len(problem.sections) > 1:
            # What the first section of a GRU leaves for the second one.
            self.states |= {name: State(problem, 1) for name in ("update", "scaled")}

    def compute(self) -> None:
        """Compute all steps."""
        problem, jobs = self.problem, self.tiling.jobs
        for name, state in self.states.items():
            state.initialize(self.buffers.get(f"initial_{name}"))
        sections = range(len(problem.sections))
        if jobs == 1:
            with (
                _parallel(problem.directions) as direction,
                T.serial(T.int64(0), T.int64(problem.steps)) as step,
            ):
                for section in sections:
                    self._section(section, direction, step, T.int64(0))
        else:
            with T.serial(T.int64(0), T.int64(problem.steps)) as step:
                for section in sections:
                    with _parallel(problem.directions * jobs) as job:
                        self._section(section, T.bind(job // jobs), step, T.bind(job % jobs))
        for name, state in self.states.items():
            if f"y_{name}" in self.buffers:
                state.finish(self.buffers[f"y_{name}"])

    def _section(self, section: int, direction: Expr, step: Expr, job: Expr) -> None:
        hidden, jobs = self.problem.hidden, self.tiling.jobs
        tiles, units = self.tiling.tiles(section, hidden), self.tiling.units(section)
        first = T.bind(job * tiles // jobs)
        end = T.bind((job + 1) * tiles // jobs)
        with T.serial(T.int64(0), end - first) as i:
            tile = T.bind(first + i)
            unit = T.bind(T.min(tile * units, T.int64(hidden - units)))
            Tile(self, section, direction, step, tile, unit).compute()


def _parallel(count: int) -> Any:
    loop = T.parallel if count > 1 else T.serial
    return loop(T.int64(0), T.int64(count))


class Tile:
    """The hidden units of a tile in one step, for all sequences."""

    def __init__(
        self, layer: Layer, section: int, direction: Expr, step: Expr, tile: Expr, unit: Expr
    ) -> None:
        self.layer, self.section = layer, section
        self.problem, self.buffers = layer.problem, layer.buffers
        self.direction, self.step, self.tile, self.unit = direction, step, tile, unit
        self.width, self.vectors = layer.tiling.width, layer.tiling.vectors[section]
        self.gates = self.problem.sections[section]
        self.sums_of_sequence = len(self.gates) * self.vectors
        self.old, self.new = T.bind(step % 2), T.bind(1 - step % 2)
        self.height = min(tile_height(self.sums_of_sequence, layer.cpu), self.problem.batch)
        self.sums = Registers(self.height * self.sums_of_sequence, self.width)
        self.values = Registers(MOST_VALUES, self.width)

    def compute(self) -> None:
        """Compute the new states."""
        each_tile(self.problem.batch, self.height, self._sequences)

    def _sequences(self, first: Expr, count: int) -> None:
        for i in range(count * self.sums_of_sequence):
            self.sums[i] = filled(0, self.width)
        self._multiply(first, count)
        for i in range(count):
            sequence = T.bind(first + i)
            is_valid, time = self._time(sequence)
            for u in range(self.vectors):
                Cell(self, sequence, time, is_valid, i, u).compute()

    def _multiply(self, first: Expr, count: int) -> None:
        """Add up the products of the states and the recurrent weight."""
        state = self.layer.states["scaled" if self.section else "h"]
        copy = T.int64(0) if self.section else self.old
        rows = [
            T.bind(state.place(copy, self.direction, first + i, T.int64(0))) for i in range(count)
        ]
        if f"weight{self.section}" in self.buffers:
            self._multiply_dense(state, rows)
        else:
            self._multiply_sparse(state, rows)

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

    def _multiply_sparse(self, state: State, rows: Sequence[Expr]) -> None:
        """Multiply by a `WindowSparse`: a permutation finds the factors of a vector of values."""
        starts, windows, places, values = (
            self.buffers[f"{name}{self.section}"] for name in SPARSE_WEIGHT
        )
        lanes = vector(T.int64(0), self.width)
        start, end = (
            T.bind(T.Cast("int64", starts[self.direction, self.tile + i])) for i in range(2)
        )
        with T.serial(T.int64(0), end - start) as i:
            step = T.bind(start + i)
            window = T.bind(T.Cast("int64", windows[step]))
            word = T.bind(places[step, lanes])
            # The permutation ignores all but the lowest five bits of a place.
            place_of_vector = [
                T.bind(T.shift_right(word, T.Broadcast(T.int32(8 * n), self.width))) if n else word
                for n in range(self.sums_of_sequence)
            ]
            for r, row in enumerate(rows):
                low, high = (
                    T.bind(state.memory[vector(row + window + first, self.width)])
                    for first in (0, self.width)
                )
                for n, place in enumerate(place_of_vector):
                    factors = T.call_llvm_intrin(
                        f"float32x{self.width}", _PERMUTATION, low, place, high
                    )
                    s = r * self.sums_of_sequence + n
                    self.sums[s] = self.sums[s] + factors * values[step, n, lanes]

    def _time(self, sequence: Expr) -> tuple[Expr | None, Expr]:
        """Return whether the step belongs to a sequence, and which of its inputs it reads."""
        problem, step = self.problem, self.step
        is_valid, length = None, T.int64(problem.steps)
        if "lengths" in self.buffers:
            length = T.bind(T.Cast("int64", self.buffers["lengths"][sequence]))
            is_valid = T.bind(step < length)
        backwards = length - 1 - step
        if is_valid is not None:
            backwards = Select(is_valid, backwards, step)
        if problem.directions == 2:
            return is_valid, T.bind(Select(T.EQ(self.direction, T.int64(0)), step, backwards))
        return is_valid, T.bind(backwards) if problem.reverse else step
