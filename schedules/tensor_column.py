"""Several stages as one function: columns of rows are carried through all of them.

The loops::

    for image, column in parallel:
        for step:
            for stage:
                the rows that its readers need in this step, and that are not there yet

A stage's rows stay in scratch memory, from where its readers take them while they are in the cache.
Only the outputs of the region are written out. `tvm_sparse.columns.rows` tells which rows a stage
computes in a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.columns.memory import StageMemory, stage_memory
from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import (
    RowArithmetic,
    column_bounds,
    column_rows,
    first_unowned_row,
    frontier,
    halo_steps,
    rows_needed,
)
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.schedules.emit.balance import columns_of
from tvm_sparse.schedules.emit.buffers import opaque
from tvm_sparse.schedules.emit.buffers import scratch as allocate
from tvm_sparse.schedules.emit.panel_memory import Panels, TensorPanels
from tvm_sparse.schedules.emit.rolling_panels import RollingPanels
from tvm_sparse.schedules.emit.row_vectors import copy_rows
from tvm_sparse.schedules.emit.sizes import declare, factor, named, parameters_of
from tvm_sparse.schedules.few_rows import one_by_one
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.tensor import Tensor

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr

EXPRESSIONS = RowArithmetic(
    min=lambda a, b: T.min(_row(a), _row(b)),
    max=lambda a, b: T.max(_row(a), _row(b)),
    size=factor,
    named=lambda row: opaque(_row(row)),
)
"""The arithmetic of rows that are expressions; an `Extent` is the parameter that holds it.

A row is in memory, not in the expressions of all the rows that depend on it: they would double with
each stage.
"""


@dataclass(frozen=True)
class Region:
    """Stages that hand rows to one another.

    Attributes
    ----------
    stages : tuple of Stage
        The stages, in an order in which they can run.
    operands : tuple of mapping of str to int
        For every stage, where its operands that are panels come from, as `Edge.source`.
    inputs : tuple of Tensor
        The panels that come from outside of the region.
    outputs : tuple of int
        Numbers of the stages whose result is used outside of the region, the last one among them.
    """

    stages: tuple[Stage, ...]
    operands: tuple[Mapping[str, int], ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[int, ...]

    @property
    def sizes(self) -> tuple[Extent, ...]:
        """The sizes that its function takes as parameters, behind the operands."""
        return parameters_of(
            size
            for stage in self.stages
            for size in (*_sizes_of(stage.tensor), *_input_sizes(stage), *stage.other_sizes)
        )

    @property
    def shape(self) -> RegionShape:
        """The facts of the region that plans and costs depend on."""
        pairs = zip(self.stages, self.operands, strict=True)
        stages = tuple(stage.shape(sources) for stage, sources in pairs)
        return RegionShape(stages, self.inputs, self.outputs)

    def parameters(self) -> list[TensorPanels]:
        """Return the inputs as parameters of the function."""
        readers = {
            source: (stage, name)
            for stage, sources in zip(self.stages, self.operands, strict=True)
            for name, source in sources.items()
        }
        found = [readers[-1 - i] for i in range(len(self.inputs))]
        return [stage.parameter(name) for stage, name in found]


def _sizes_of(tensor: Tensor) -> tuple[int, int]:
    return tensor.images, tensor.rows


def _input_sizes(stage: Stage) -> list[int]:
    return [size for tensor, _ in stage.panels.values() for size in _sizes_of(tensor)]


def tensor_column(region: Region, plan: ColumnPlan, cores: int = 1) -> tvm.tirx.PrimFunc:
    """Build the function of a region.

    Parameters
    ----------
    region : Region
        The stages and their connections. Each stage can be emitted only once.
    plan : ColumnPlan
        The columns and steps into which the rows of the last stage are cut.
    cores : int
        Cores that shall have equal work where an inference decides how many rows there are. Their
        columns may then be smaller than those of the plan; of fewer rows than cores, cores share
        the channels.

    Returns
    -------
    PrimFunc
        ``(inputs, the other arguments of each stage in turn, sizes, outputs)``.
    """
    shape = region.shape
    plan = plan.fitted(shape)
    memory = stage_memory(shape, plan)
    inputs = region.parameters()
    stored = {i: region.stages[i].result() for i in region.outputs}
    scratch = {
        i: RollingPanels(stage.tensor, kept.capacity, kept.is_carried, kept.is_split)
        for i, (stage, kept) in enumerate(zip(region.stages, memory, strict=True))
        if kept.capacity
    }
    results: list[Panels] = [
        scratch[i] if i in scratch else stored[i] for i in range(len(region.stages))
    ]

    with (
        named(region.sizes) as variables,
        IRBuilder() as builder,
        T.prim_func(s_tir=True, private=True),
    ):
        T.func_name("tensor_column")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for i, panels in enumerate(inputs):
            panels.declare(f"x{i}")
        for stage, sources in zip(region.stages, region.operands, strict=True):
            operands = {
                name: results[source] if source >= 0 else inputs[-1 - source]
                for name, source in sources.items()
            }
            stage.declare(operands.__getitem__)
        declare(variables)
        for i, panels in stored.items():
            panels.declare(f"y{i}")
        for prepare in dict.fromkeys(p for stage in region.stages for p in stage.preparations):
            prepare()
        images, height = _row(factor(shape.images)), _row(factor(shape.height))
        columns = _Columns(region, shape, plan, memory, inputs, results, scratch, stored)
        if isinstance(shape.height, Extent):
            with contextlib.ExitStack() as otherwise:
                if cores > 1 and shape.is_row_by_row:
                    otherwise.enter_context(T.If(images * height < cores))
                    with T.Then():
                        one_by_one(region.stages, scratch, stored, images, height, cores)
                    otherwise.enter_context(T.Else())
                count = opaque(columns_of(images, height, plan.column_rows, cores))
                columns.emit(images, count, replace(EXPRESSIONS, columns=count))
        else:
            columns.emit(images, _row(-(-shape.height // plan.column_rows)), EXPRESSIONS)
    return builder.get()


@dataclass(frozen=True)
class _Columns:
    """The loops over columns and steps of a function of a region.

    Attributes
    ----------
    region, shape, plan
        The region, its facts, and the plan that fits it.
    memory : sequence of StageMemory
        The memory of every stage.
    inputs, results : sequence of Panels
        The inputs of the function, and where every stage leaves its result.
    scratch, stored : mapping of int to Panels
        The results in scratch memory and those that are outputs, by the number of the stage.
    """

    region: Region
    shape: RegionShape
    plan: ColumnPlan
    memory: Sequence[StageMemory]
    inputs: Sequence[TensorPanels]
    results: Sequence[Panels]
    scratch: Mapping[int, RollingPanels]
    stored: Mapping[int, TensorPanels]

    def emit(self, images: Expr, columns: Expr, arithmetic: RowArithmetic) -> None:
        """Emit the loops over some columns of each image."""
        region, shape, plan, memory = self.region, self.shape, self.plan, self.memory
        inputs, results, scratch, stored = self.inputs, self.results, self.scratch, self.stored
        with (
            T.parallel(T.int64(0), images * columns) as job,
            T.sblock("tensor_column"),
        ):
            image = T.axis.spatial(images, job // columns)
            column = T.axis.spatial(columns, job % columns)
            T.reads(*(panels.whole() for panels in inputs))
            T.writes(*(panels.whole() for panels in stored.values()))
            for i in scratch:
                if memory[i].is_carried:
                    scratch[i].allocate()
            start, last = column_rows(shape, plan, column, arithmetic)
            span = opaque(start), opaque(last)
            bounds = column_bounds(shape, span, arithmetic)
            done = allocate(len(region.stages), "int64")
            for i, (row, _) in enumerate(bounds):
                T.buffer_store(done, row, [i])
            ahead = halo_steps(shape, plan)
            count = T.int64(ahead + plan.steps())
            with T.serial(T.int64(0), count) as step, T.sblock("step"):
                at_step = T.axis.spatial(count, step)
                T.reads()
                T.writes()
                for i in scratch:
                    if not memory[i].is_carried:
                        scratch[i].allocate()
                first, end = frontier(plan, span, at_step - ahead, arithmetic)
                rows = opaque(first), opaque(end)
                with T.If(rows[0] < rows[1]), T.Then():
                    needed = rows_needed(
                        shape, *rows, arithmetic, bounds if plan.overlap == "carry" else None
                    )
                    for i, stage in enumerate(region.stages):
                        run = _run(needed[i], i, plan, done)
                        if i in scratch:
                            scratch[i].origin = bounds[i][0] if memory[i].is_carried else run[0]
                        _compute(stage, memory[i], results[i], image, run)
                        if i in scratch and i in stored:
                            own = [
                                opaque(first_unowned_row(shape, i, T.max(row, span[0]), arithmetic))
                                for row in rows
                            ]
                            copy_rows(results[i], stored[i], image, own[0], own[1])


def _run(needed: tuple[Expr, Expr], i: int, plan: ColumnPlan, done: Expr) -> tuple[Expr, Expr]:
    """Return the rows that a stage computes: the needed rows that are not there yet."""
    if plan.overlap == "recompute" or plan.steps() == 1:
        return needed
    first = opaque(done[i])
    end = opaque(T.max(first, needed[1]))
    T.buffer_store(done, end, [i])
    return first, end


def _compute(
    stage: Stage, memory: StageMemory, y: Panels, image: Expr, run: tuple[Expr, Expr]
) -> None:
    with T.If(run[0] < run[1]), T.Then(), T.sblock(stage.name):
        T.reads()
        T.writes()
        stage.allocate(memory.run_rows)
        stage.compute(y, image, run[0], run[1], None)


def _row(row: Expr | int) -> Expr:
    return T.int64(row) if isinstance(row, int) else row
