"""The equations of the cells of LSTM, GRU and RNN, for a vector of hidden units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx import Select
from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import across, filled, prefetch, vector
from tvm_sparse.schedules.emit.expressions import clip

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm.ir import Expr

    from tvm_sparse.schedules.operators.recurrent import State
    from tvm_sparse.schedules.operators.recurrent_tile import Tile

MOST_VALUES = 20
"""Intermediate values of a cell that have names."""


class Cell:
    """One vector of hidden units of a sequence."""

    def __init__(
        self, tile: Tile, sequence: Expr, time: Expr, is_valid: Expr | None, row: int, u: int
    ) -> None:
        self.tile, self.layer, self.problem = tile, tile.layer, tile.problem
        self.sequence, self.time, self.is_valid = sequence, time, is_valid
        self.row, self.u, self.names = row, u, 0
        self.unit = T.bind(tile.unit + u * tile.width)

    def compute(self) -> None:
        """Compute the new states of the units, or what the next section reads."""
        {"lstm": self._lstm, "gru": self._gru, "rnn": self._rnn}[self.problem.cell]()

    def prefetch(self) -> None:
        """Ask for the inputs of the cell, which another core may have computed."""
        for gate in self.tile.gates:
            prefetch(self.tile.buffers["xw"][self.time, self.sequence, self._first(gate)])

    def _rnn(self) -> None:
        self._finish(self._activate(0, self._input(0) + self._sum(0)))

    def _lstm(self) -> None:
        i, o, f, c = range(4)
        old = self._load(self.layer.states["c"], self.tile.old)
        input_gate = self._activate(0, self._gate(i) + self._peephole(0, old))
        if self.problem.input_forget:
            forget_gate = self._named(self._constant(1) - input_gate)
        else:
            forget_gate = self._activate(0, self._gate(f) + self._peephole(2, old))
        candidate = self._activate(1, self._gate(c))
        cell = self._named(forget_gate * old + input_gate * candidate)
        output_gate = self._activate(0, self._gate(o) + self._peephole(1, cell))
        self._store(self.layer.states["c"], self.tile.new, self._if_valid(cell, old))
        self._finish(self._named(output_gate * self._limited_activate(2, cell)))

    def _gru(self) -> None:
        z, r, h = range(3)
        if self.tile.section == 1:
            update = self._load(self.layer.states["update"], T.int64(0))
            self._finish_gru(update, self._activate(1, self._gate(h)))
            return
        update, reset = (self._activate(0, self._gate(gate)) for gate in (z, r))
        if self.problem.linear_before_reset:
            recurrent = self._sum(h)
            if "bias" in self.tile.buffers:
                places = [self.tile.direction, vector(self.unit, self.tile.width)]
                recurrent = recurrent + self.tile.buffers["bias"][tuple(places)]
            candidate = self._input(h) + reset * recurrent
            self._finish_gru(update, self._activate(1, candidate))
            return
        old = self._load(self.layer.states["h"], self.tile.old)
        self._store(self.layer.states["update"], T.int64(0), update)
        self._store(self.layer.states["scaled"], T.int64(0), reset * old)

    def _finish_gru(self, update: Expr, candidate: Expr) -> None:
        old = self._load(self.layer.states["h"], self.tile.old)
        self._finish(self._named((self._constant(1) - update) * candidate + update * old))

    def _finish(self, state: Expr) -> None:
        """Store the new state, and the result of the step."""
        old = (
            self._load(self.layer.states["h"], self.tile.old)
            if self.is_valid is not None
            else state
        )
        self._store(self.layer.states["h"], self.tile.new, self._if_valid(state, old))
        place = [self.time, self.tile.direction, self.sequence, vector(self.unit, self.tile.width)]
        shown = self._if_valid(state, self._constant(0))
        T.buffer_store(self.tile.buffers["y"], shown, place)

    def _gate(self, gate: int) -> Expr:
        return self._input(gate) + self._sum(gate)

    def _input(self, gate: int) -> Expr:
        """Return the product of the step's inputs with their weights, plus the biases."""
        place = vector(self._first(gate), self.tile.width)
        return self.tile.buffers["xw"][self.time, self.sequence, place]

    def _first(self, gate: int) -> Expr:
        """Return the first of the cell's values of a gate among those of all directions."""
        gates = self.tile.direction * self.problem.gates + gate
        return gates * self.problem.hidden + self.unit

    def _sum(self, gate: int) -> Expr:
        """Return the product of the state with the recurrent weight."""
        place = self.tile.gates.index(gate) * self.tile.vectors + self.u
        total = self.tile.sums[self.row * self.tile.sums_of_sequence + place]
        if not self.problem.rounds:
            return total
        first = gate * self.problem.hidden + self.unit
        scale = self.tile.buffers["scale"][self.tile.direction, vector(first, self.tile.width)]
        return total * (scale * across(self.tile.steps.scale, self.tile.width))

    def _peephole(self, number_of_gate: int, cell: Expr) -> Expr:
        if "peepholes" not in self.tile.buffers:
            return self._constant(0)
        first = number_of_gate * self.problem.hidden + self.unit
        place = (self.tile.direction, vector(first, self.tile.width))
        return self.tile.buffers["peepholes"][place] * cell

    def _activate(self, function: int, x: Expr) -> Expr:
        limit = self.problem.clip
        x = self._named(x)
        if limit:
            x = self._named(clip(x, -limit, limit))
        return self._limited_activate(function, x)

    def _limited_activate(self, function: int, x: Expr) -> Expr:
        return self._named(self._function(function)(x))

    def _function(self, number_of_function: int) -> Callable[[Expr], Expr]:
        return self.layer.functions[number_of_function]

    def _if_valid(self, value: Expr, other: Expr) -> Expr:
        if self.is_valid is None:
            return value
        return Select(across(self.is_valid, self.tile.width), value, other)

    def _named(self, value: Expr) -> Expr:
        """Return a value that passed through a register array.

        TVM's simplifier replaces bound names by their values, names within names, which takes
        minutes for the equations of a cell. It leaves what comes from memory alone.
        """
        register, self.names = self.names, self.names + 1
        self.tile.values[register] = value
        return self.tile.values[register]

    def _constant(self, value: float) -> Expr:
        return filled(value, self.tile.width)

    def _load(self, state: State, copy: Expr) -> Expr:
        return self._named(state.memory[self._place(state, copy)])

    def _store(self, state: State, copy: Expr, value: Expr) -> None:
        T.buffer_store(state.memory, value, [self._place(state, copy)])

    def _place(self, state: State, copy: Expr) -> Expr:
        first = state.place(copy, self.tile.direction, self.sequence, self.unit)
        return vector(first, self.tile.width)
