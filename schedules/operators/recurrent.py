"""LSTM, GRU and RNN: all steps of a layer in one function.

The product of the inputs with their weights, `xw`, is computed before, for all steps at once::

    for direction: for group of sequences: for step:   # or, in each step, all jobs of a direction
        for section: for tile:                    # hidden units of all gates of a section
            for sequences that fit in registers:
                sums[:] = 0
                for k in hidden: sums += h[step % 2, k] * weight[tile, k]
                h[1 - step % 2, tile], c[...] = cell(xw[time] + sums, c[step % 2, tile])
                y[time, tile] = h

A step reads the states of one buffer and writes those of the other, so that tiles may overlap and
threads may share a step. A GRU without `linear_before_reset` has two sections, because its
candidate reads the whole state that the reset gate scaled. `recurrent_rounding` says how the states
of a step are rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.formats.windows import MOST_WINDOW
from tvm_sparse.schedules.emit.buffers import argument, number, scratch, whole
from tvm_sparse.schedules.emit.recurrent_activations import activation
from tvm_sparse.schedules.emit.sizes import declare, named, size
from tvm_sparse.schedules.operators.recurrent_rounding import Rounding
from tvm_sparse.schedules.operators.recurrent_tile import Part, Tile
from tvm_sparse.tilings.integers import dots_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import tvm
    from tvm.ir import Expr

    from tvm_sparse.cpu.profile import CpuProfile
    from tvm_sparse.sizes.recurrent import Recurrent
    from tvm_sparse.tilings.recurrent import RecurrentTiling


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
        ``weight0``, ... for each section, or the arrays of a sparse weight: ``starts0``, ..., or of
        one of integers: ``words0``, ``corrections0`` and perhaps ``shifts0``.
    cpu : CpuProfile
        Gives the number of registers.

    Returns
    -------
    PrimFunc
        Takes the operands, the steps if they are an `Extent`, and the results of
        `Recurrent.results`.
    """
    with (
        named([problem.steps]) as variables,
        IRBuilder() as builder,
        T.prim_func(s_tir=True, private=True),
    ):
        T.func_name(problem.cell)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        given = {
            name: argument(name, *shape, dtype=dtype) for name, (shape, dtype) in operands.items()
        }
        declare(variables)
        results = {name: argument(name, *shape) for name, shape in problem.results().items()}
        with T.sblock(problem.cell):
            T.reads(*(whole(given[n], [*map(size, shape)]) for n, (shape, _) in operands.items()))
            T.writes(*(whole(results[n], [*map(size, s)]) for n, s in problem.results().items()))
            Layer(problem, tiling, {**given, **results}, cpu).compute()
    return builder.get()


class State:
    """A state of all sequences in flat memory, twice if a step may not overwrite what it reads."""

    def __init__(self, problem: Recurrent, copies: int) -> None:
        self.problem = problem
        # A window may begin at the last hidden unit; what lies behind it is 0.
        self.row = -(-problem.hidden // 16) * 16 + MOST_WINDOW
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
        last = size(self.problem.steps) % 2
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
        self.rounding: Rounding | None = None
        if problem.rounds:
            dots = dots_of(cpu) if "words0" in buffers else None
            if dots is None:
                self.states["rounded"] = State(problem, tiling.jobs)
            self.rounding = Rounding(problem, tiling, self.states.get("rounded"), dots)

    def compute(self) -> None:
        """Compute all steps."""
        problem, jobs = self.problem, self.tiling.jobs
        for name, state in self.states.items():
            state.initialize(self.buffers.get(f"initial_{name}"))
        sections = range(len(problem.sections))
        if jobs == 1:
            groups = self.tiling.groups
            with (
                _parallel(problem.directions * groups) as job,
                T.serial(T.int64(0), size(problem.steps)) as step,
            ):
                direction, group = T.bind(job // groups), T.bind(job % groups)
                for section in sections:
                    self._section(section, Part(direction, step, group, T.int64(0)))
        else:
            with _threads(), T.serial(T.int64(0), size(problem.steps)) as step:
                for section in sections:
                    with _wait_for_all(), _parallel(problem.directions * jobs) as job:
                        direction, share = T.bind(job // jobs), T.bind(job % jobs)
                        self._section(section, Part(direction, step, T.int64(0), share))
        for name, state in self.states.items():
            if f"y_{name}" in self.buffers:
                state.finish(self.buffers[f"y_{name}"])

    def _section(self, section: int, part: Part) -> None:
        hidden, jobs = self.problem.hidden, self.tiling.jobs
        tiles, units = self.tiling.tiles(section, hidden), self.tiling.units(section)
        first = T.bind(part.share * tiles // jobs)
        end = T.bind((part.share + 1) * tiles // jobs)
        if self.rounding is not None:
            self.rounding.round(self.states["h"], T.bind(part.step % 2), part)
        with T.serial(T.int64(0), end - first) as i:
            tile = T.bind(first + i)
            unit = T.bind(T.min(tile * units, T.int64(hidden - units)))
            Tile(self, section, part, tile, unit).compute()


def _parallel(count: int) -> Any:
    loop = T.parallel if count > 1 else T.serial
    return loop(T.int64(0), T.int64(count))


def _threads() -> Any:
    """Open a part that all threads run; its parallel loops share their jobs among them."""
    return T.attr(T.int32(0), "pragma_parallel_launch_point", T.int32(1))


def _wait_for_all() -> Any:
    """Open a part of `_threads` at whose end all threads wait for each other.

    That takes a fraction of the time in which a parallel loop starts and ends.
    """
    return T.attr(T.int32(0), "pragma_parallel_barrier_when_finish", T.int32(1))
