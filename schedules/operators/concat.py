"""Concatenation of panels along their channels, as a stage of regions that copies rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tvm_sparse.costs.vectors import vector_cycles, vectors_of
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.emit.panel_memory import Panels
from tvm_sparse.schedules.emit.row_vectors import copy_channels
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def concat(sources: Sequence[Tensor], cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    """Build the kernel of a concatenation.

    Parameters
    ----------
    sources, cpu
        As `Concat`.

    Returns
    -------
    PrimFunc
        ``(x0 [rows, channels of 0, lanes], x1, ..., y [rows, sum of channels, lanes])``, of the
        sources' type.
    """
    return kernel(Concat(sources, cpu))


class Concat(Stage):
    """The channels of several panels behind one another.

    Parameters
    ----------
    sources : sequence of Tensor
        The operands, of the same images, rows, lanes and type.
    cpu : CpuProfile
        Gives the vector length.

    Raises
    ------
    ValueError
        If images, rows, lanes or types differ.
    """

    name = "concat"

    def __init__(self, sources: Sequence[Tensor], cpu: CpuProfile) -> None:
        if len({replace(source, channels=1) for source in sources}) != 1:
            raise ValueError(f"the operands differ in more than their channels: {sources}")
        one = sources[0]
        self.tensor = replace(one, channels=sum(source.channels for source in sources))
        self.cpu, self.width = cpu, cpu.vector_width(one.lanes, one.dtype)
        self.panels = {f"x{i}": (source, RowMap()) for i, source in enumerate(sources)}

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the operands."""
        self.operands = [panels(name) for name in self.panels]

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        lanes = self.tensor.lanes
        for row, _ in self.each_tile(first, end):
            tile, written = y.tile(image, row), 0
            for x in self.operands:
                channels = x.tensor.channels
                copy_channels(x.tile(image, row), tile, 0, written, channels, lanes, self.width)
                written += channels

    def work(self) -> int:
        """Return how many values it copies."""
        return self.tensor.elements

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        return vector_cycles(vectors_of(self.tensor, self.cpu), loads=1, stores=1)
