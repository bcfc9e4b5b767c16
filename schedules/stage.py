"""Stages: operators that can be computed for any run of their output rows.

`kernel` makes one stage a PrimFunc, which is parallel over runs of rows and chunks of channels.
`tvm_sparse.schedules.tensor_column` makes one of several stages that hand rows to one another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.columns.shapes import Edge, StageShape
from tvm_sparse.columns.tiles import ONE_ROW, AnyRuns, Tiles
from tvm_sparse.cpu.rates import PARALLEL_ELEMENTS
from tvm_sparse.schedules.emit.balance import parts_of, sharing
from tvm_sparse.schedules.emit.buffers import opaque
from tvm_sparse.schedules.emit.panel_memory import Images, Panels, TensorPanels
from tvm_sparse.schedules.emit.sizes import declare, factor, named, parameters_of, size
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr


class Stage(ABC):
    """An operator on panels whose output rows can be computed in any order.

    Subclasses set the attributes in their constructors; nobody else changes them.

    Attributes
    ----------
    name : str
        The operator.
    tensor : Tensor
        The result.
    panels : mapping of str to (Tensor, RowMap or None)
        The operands that are panels, by name, and which of their rows an output row sees. None
        means that it sees all rows.
    tiles : Tiles
        How runs of rows are cut into tiles, whose rows are computed together.
    row_block : int
        Rows of a run in a kernel of this stage alone; it may be an `Extent`.
    chunks : int
        Parts of the channels that different threads can compute.
    run_rows : collection of int
        The numbers of rows that runs have; known from `allocate` on.
    chunks_outermost : bool
        Whether a kernel of this stage alone computes all rows of a chunk before the next chunk.
    reads_images : collection of str
        The operands in `panels` that are stored as images ``[images, channels, rows, lanes]``.
    writes_images : bool
        Whether the result is stored as such images.
    from_outside : collection of str
        The operands in `panels` that no stage of its region computes: it reads other images of them
        than the one it computes.
    preparations : collection of callable
        Emit what must happen once in a call, before the first of its threads starts.
    other_sizes : collection of int
        The sizes besides those of rows that its code depends on.
    holds_runs : bool
        Whether its memory holds what a run sees, so that the rows of a run have a bound.
    parts : int
        Parts of the channels that cores can share where an inference has few rows, see `sharing`.
    """

    name: str
    tensor: Tensor
    panels: Mapping[str, tuple[Tensor, RowMap | None]]
    tiles: Tiles = ONE_ROW
    row_block: int = 1
    chunks: int = 1
    run_rows: Collection[int] = (1,)
    chunks_outermost: bool = False
    reads_images: Collection[str] = ()
    writes_images: bool = False
    from_outside: Collection[str] = ()
    preparations: Collection[Callable[[], None]] = ()
    other_sizes: Collection[int] = ()
    holds_runs: bool = False
    parts: int = 1

    @abstractmethod
    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the operands in the order of the call; `panels` returns those that are panels.

        Called inside the function, before `allocate`.
        """

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate memory for runs whose numbers of rows are among `run_rows`.

        Called inside the function, before `compute`.
        """
        self.run_rows = run_rows

    @abstractmethod
    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image.

        Parameters
        ----------
        y : Panels
            The memory of the result.
        image, first, end : Expr
            The image, its first row to compute, and the row behind the last one.
        chunk : Expr, optional
            The chunk to compute; by default, all chunks.
        """

    @abstractmethod
    def cycles(self) -> float:
        """Return the compute cycles of all rows, with data in the nearest cache, over all cores."""

    def run_cycles(self) -> float:
        """Return the compute cycles of a run of any number of rows besides those of its rows."""
        return 0.0

    @property
    def sizes(self) -> tuple[Extent, ...]:
        """The sizes that a function of this stage takes as parameters, behind the operands."""
        tensors = [self.tensor, *(tensor for tensor, _ in self.panels.values())]
        extents = [extent for tensor in tensors for extent in (tensor.images, tensor.rows)]
        return parameters_of([*extents, self.row_block, *self.other_sizes])

    @property
    def most_rows(self) -> int:
        """Rows of the longest run."""
        return max(self.run_rows)

    def parameter(self, name: str) -> TensorPanels:
        """Return an operand that is panels as a parameter of a function."""
        tensor, _ = self.panels[name]
        return Images(tensor) if name in self.reads_images else TensorPanels(tensor)

    def result(self) -> TensorPanels:
        """Return the result as a parameter of a function."""
        return Images(self.tensor) if self.writes_images else TensorPanels(self.tensor)

    def weight_bytes(self) -> int:
        """Return the bytes of the constants that every run reads."""
        return 0

    def window_bytes(self) -> int:
        """Return the bytes, for each row, of the memory into which a run gathers its inputs."""
        return 0

    def row_parts(self) -> int:
        """Return the parts into which a kernel of this stage alone cuts the rows.

        It cuts channels where these parts are too few; 0 if it cuts no channels.
        """
        if self.chunks == 1:
            return 0
        blocks = 1 if self.chunks_outermost else -(-self.tensor.rows // self.row_block)
        return self.tensor.images * blocks

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return self.name

    def shape(self, sources: Mapping[str, int]) -> StageShape:
        """Return the facts that plans and costs depend on.

        Parameters
        ----------
        sources : mapping of str to int
            Where the operands in `panels` come from, as `Edge.source`.
        """
        edges = tuple(Edge(source, self.panels[name][1]) for name, source in sources.items())
        return dataclasses.replace(self._unconnected, edges=edges)

    @functools.cached_property
    def _unconnected(self) -> StageShape:
        """The facts without edges: a stage is planned in many regions, and its cost asked once."""
        return StageShape(
            name=self.name,
            tensor=self.tensor,
            edges=(),
            tiles=self.tiles,
            cycles=self.cycles(),
            run_cycles=self.run_cycles(),
            weight_bytes=self.weight_bytes(),
            key=self.key(),
            window_bytes=self.window_bytes(),
            row_parts=self.row_parts(),
        )

    def each_tile(self, first: Expr, end: Expr) -> Iterator[tuple[Expr, int]]:
        """Yield the first row of every tile of a run of rows, and the number of its rows.

        The caller's code is emitted once for every number of rows that a tile can have.
        """
        tiles = self.tiles
        sizes = tiles.possible(self.run_rows)
        joined = [size for size in sizes if size > tiles.rows]
        # The bounds of the loop are constants, see `opaque`.
        count: Expr = T.int64(-(-self.most_rows // tiles.rows))
        if isinstance(self.run_rows, AnyRuns):
            count = opaque((end - first + (tiles.rows - 1)) // tiles.rows)
        with T.serial(T.int64(0), count) as i:
            row = T.bind(first + i * tiles.rows)
            left = opaque(end - row)
            for size in sizes:
                is_next = left == size
                if size == tiles.rows:
                    is_next = functools.reduce(T.And, (left != j for j in joined), left >= size)
                elif size < tiles.rows and tiles.joins(size):
                    is_next = T.And(is_next, i == 0)  # behind other tiles these rows have joined
                with T.If(is_next), T.Then():
                    yield row, size

    def each_chunk(self, chunk: Expr | None) -> contextlib.AbstractContextManager[Expr]:
        """Open the loop over the chunks, unless a chunk is given."""
        if chunk is not None:
            return contextlib.nullcontext(chunk)
        return T.serial(T.int64(0), T.int64(self.chunks))

    def work(self) -> int:
        """Return about how many values the stage touches; for few, several threads do not pay."""
        return PARALLEL_ELEMENTS


def kernel(stage: Stage) -> tvm.tirx.PrimFunc:
    """Return a PrimFunc of a stage.

    Its parameters are the operands of the call, the sizes that the stage takes, and the result.
    """
    tensor = stage.tensor
    is_sized = bool(stage.sizes)
    with (
        named(stage.sizes) as variables,
        IRBuilder() as builder,
        T.prim_func(s_tir=True, private=True),
    ):
        T.func_name(stage.name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        operands: list[TensorPanels] = []

        def operand(name: str) -> TensorPanels:
            (function,) = builder.frames
            number = len(function.args)
            operands.append(stage.parameter(name))
            operands[-1].declare(f"x{number}" if number else "x")
            return operands[-1]

        stage.declare(operand)
        declare(variables)
        y = stage.result()
        y.declare("y")
        for prepare in stage.preparations:
            prepare()
        rows, images, row_block = (
            factor(extent) for extent in (tensor.rows, tensor.images, stage.row_block)
        )
        if isinstance(stage.row_block, Extent):
            row_block = T.max(row_block, T.int64(1))  # there may be no rows
        blocks = -(-rows // row_block)
        count = images * blocks * stage.chunks
        parts = opaque(parts_of(count, stage.parts)) if stage.parts > 1 else 1
        count = count * parts
        is_parallel = is_sized or stage.work() >= PARALLEL_ELEMENTS
        loop = T.parallel if is_parallel else T.serial
        with loop(T.int64(0), _int64(count)) as job, T.sblock(stage.name):
            part, job = (job % parts, job // parts) if stage.parts > 1 else (job, job)
            image = T.axis.spatial(_int64(images), job // (blocks * stage.chunks))
            if stage.chunks_outermost:
                chunk = T.axis.spatial(T.int64(stage.chunks), job // blocks % stage.chunks)
                block = T.axis.spatial(_int64(blocks), job % blocks)
            else:
                block = T.axis.spatial(_int64(blocks), job // stage.chunks % blocks)
                chunk = T.axis.spatial(T.int64(stage.chunks), job % stage.chunks)
            T.reads(*(panels.whole() for panels in operands))
            T.writes(y.whole())
            first = opaque(block * row_block)
            end = first + row_block
            if stage.row_block != 1 and tensor.rows % stage.row_block != 0:
                end = opaque(T.min(end, size(tensor.rows)))
            stage.allocate(_run_rows(stage))
            with sharing(opaque(part), parts) if stage.parts > 1 else contextlib.nullcontext():
                stage.compute(y, image, first, end, chunk)
    return builder.get()


def _run_rows(stage: Stage) -> Collection[int]:
    """Return the numbers of rows of the runs of a kernel."""
    rows, row_block = stage.tensor.rows, stage.row_block
    if row_block == 1:
        return {1}
    if isinstance(rows, Extent) or isinstance(row_block, Extent):
        return range(1, row_block + 1) if stage.holds_runs else stage.tiles.any_runs()
    return {min(rows, row_block), rows % row_block} - {0}


def _int64(value: Expr | int) -> Expr:
    return T.int64(value) if isinstance(value, int) else value
