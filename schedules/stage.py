"""Stages: operators that can be computed for any run of their output rows.

`kernel` makes a stage a PrimFunc of its own, parallel over runs of rows and chunks of channels;
`tvm_sparse.schedules.tensor_column` makes one of several, which hand their rows to one another.
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.rates import PARALLEL_ELEMENTS
from tvm_sparse.schedules.emit.buffers import opaque
from tvm_sparse.schedules.emit.panel_memory import Images, Panels, TensorPanels
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr


class Stage(ABC):
    """An operator on panels whose output rows can be computed in any order.

    Attributes
    ----------
    name : str
        The operator.
    tensor : Tensor
        What it computes.
    panels : mapping of str to (Tensor, RowMap or None)
        The operands that are panels, by name, and which of their rows an output row sees. None
        means that it sees all rows.
    tile : int
        Rows that it computes together.
    most_tile_rows : int
        Rows that it can compute together: what is left of a run joins its last tile if it fits.
    row_block : int
        Rows of a run when it is a kernel of its own.
    chunks : int
        Parts of its channels that can be computed by different threads.
    run_rows : collection of int
        How many rows its runs have, known when it is emitted.
    chunks_outermost : bool
        Whether a kernel of its own computes all rows of a chunk before those of the next one.
    reads_images : collection of str
        The operands in `panels` that are images ``[images, channels, rows, lanes]`` in truth.
    writes_images : bool
        Whether its result is.
    """

    name: str
    tensor: Tensor
    panels: Mapping[str, tuple[Tensor, RowMap | None]]
    tile: int = 1
    most_tile_rows: int = 1
    row_block: int = 1
    chunks: int = 1
    run_rows: Collection[int] = (1,)
    chunks_outermost: bool = False
    reads_images: Collection[str] = ()
    writes_images: bool = False

    @abstractmethod
    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the operands in the order of the call; `panels` returns those that are panels.

        Called inside the function, before `allocate` and `compute`.
        """

    def allocate(self) -> None:  # noqa: B027  (most stages need nothing)
        """Allocate memory for runs of at most `most_rows` rows."""

    @abstractmethod
    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image.

        Parameters
        ----------
        y : Panels
            Where the result goes.
        image, first, end : Expr
            Which rows.
        chunk : Expr, optional
            Which of the chunks; all of them if not given.
        """

    @abstractmethod
    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""

    @property
    def most_rows(self) -> int:
        """Rows of its longest run."""
        return max(self.run_rows)

    def parameter(self, name: str) -> TensorPanels:
        """Return an operand that is panels as a parameter of a function."""
        tensor, _ = self.panels[name]
        return Images(tensor) if name in self.reads_images else TensorPanels(tensor)

    def result(self) -> TensorPanels:
        """Return what it computes as a parameter of a function."""
        return Images(self.tensor) if self.writes_images else TensorPanels(self.tensor)

    def weight_bytes(self) -> int:
        """Return the bytes of constants that every run reads."""
        return 0

    def window_bytes(self) -> int:
        """Return the bytes that a run gathers its inputs into, for each of its rows."""
        return 0

    def row_parts(self) -> int:
        """Return into how many parts a kernel of its own cuts the rows before it cuts channels.

        0 if it cuts no channels.
        """
        if self.chunks == 1:
            return 0
        blocks = 1 if self.chunks_outermost else -(-self.tensor.rows // self.row_block)
        return self.tensor.images * blocks

    def key(self) -> str:
        """Return a text of what the time depends on, apart from the tensors, for tuning records."""
        return self.name

    def tiles(self, first: Expr, end: Expr) -> Iterator[tuple[Expr, int]]:
        """Yield the first row of every tile of a run of rows, and how many it has.

        What is done with it is emitted for whole tiles, and for every number of rows that the last
        tile of a run may have instead.
        """
        tile = self.tile
        rests = sorted({rows % tile for rows in self.run_rows} - {0})
        joining = [rest for rest in rests if tile + rest <= self.most_tile_rows]
        # The bounds of the loop are constants, see `opaque`.
        with T.serial(T.int64(0), T.int64(-(-self.most_rows // tile))) as i:
            row = T.bind(first + i * tile)
            left = opaque(end - row)
            if self.most_rows >= tile:
                others = (left != tile + rest for rest in joining)
                with T.If(functools.reduce(T.And, others, left >= tile)), T.Then():
                    yield row, tile
            for rest in rests:
                is_rest = left == rest
                if rest in joining:
                    with T.If(left == tile + rest), T.Then():
                        yield row, tile + rest
                    is_rest = T.And(is_rest, i == 0)  # later ones have joined
                if rest in self.run_rows or rest not in joining:
                    with T.If(is_rest), T.Then():
                        yield row, rest

    def each_chunk(self, chunk: Expr | None) -> contextlib.AbstractContextManager[Expr]:
        """Open the loop over the chunks, unless one is given."""
        if chunk is not None:
            return contextlib.nullcontext(chunk)
        return T.serial(T.int64(0), T.int64(self.chunks))

    def work(self) -> int:
        """Return about how many values it touches; few of them are not worth several threads."""
        return PARALLEL_ELEMENTS


def kernel(stage: Stage) -> tvm.tirx.PrimFunc:
    """Make a PrimFunc of a stage, whose parameters are those of its call, and then the result."""
    tensor = stage.tensor
    blocks = -(-tensor.rows // stage.row_block)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_name(stage.name)
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        operands: list[TensorPanels] = []

        def operand(name: str) -> TensorPanels:
            operands.append(stage.parameter(name))
            operands[-1].declare(name)
            return operands[-1]

        stage.declare(operand)
        y = stage.result()
        y.declare("y")
        count = tensor.images * blocks * stage.chunks
        loop = T.parallel if stage.work() >= PARALLEL_ELEMENTS else T.serial
        with loop(T.int64(0), T.int64(count)) as job, T.sblock(stage.name):
            image = T.axis.spatial(T.int64(tensor.images), job // (blocks * stage.chunks))
            if stage.chunks_outermost:
                chunk = T.axis.spatial(T.int64(stage.chunks), job // blocks % stage.chunks)
                block = T.axis.spatial(T.int64(blocks), job % blocks)
            else:
                block = T.axis.spatial(T.int64(blocks), job // stage.chunks % blocks)
                chunk = T.axis.spatial(T.int64(stage.chunks), job % stage.chunks)
            T.reads(*(panels.whole() for panels in operands))
            T.writes(y.whole())
            first = opaque(block * stage.row_block)
            end = first + stage.row_block
            if tensor.rows % stage.row_block:
                end = opaque(T.min(end, T.int64(tensor.rows)))
            rows, block = tensor.rows, stage.row_block
            stage.run_rows = {min(rows, block), rows % block} - {0}
            stage.allocate()
            stage.compute(y, image, first, end, chunk)
    return builder.get()
