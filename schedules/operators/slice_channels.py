"""A range of the channels of panels, as a stage of regions that copies rows."""

from __future__ import annotations

from collections.abc import Callable
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


def slice_channels(source: Tensor, begin: int, end: int, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    """Build the kernel that copies a range of channels.

    Parameters
    ----------
    source, begin, end, cpu
        As `SliceChannels`.

    Returns
    -------
    PrimFunc
        ``(x [rows, channels, lanes], y [rows, end - begin, lanes])``, of the source's type.
    """
    return kernel(SliceChannels(source, begin, end, cpu))


class SliceChannels(Stage):
    """Channels ``[begin, end)`` of panels.

    Parameters
    ----------
    source : Tensor
        The operand.
    begin, end : int
        The range of its channels.
    cpu : CpuProfile
        Gives the vector length.

    Raises
    ------
    ValueError
        If it does not have them.
    """

    name = "slice_channels"

    def __init__(self, source: Tensor, begin: int, end: int, cpu: CpuProfile) -> None:
        if not 0 <= begin < end <= source.channels:
            raise ValueError(f"channels {begin} to {end} are not in {source}")
        self.begin, self.cpu, self.width = begin, cpu, cpu.vector_width(source.lanes, source.dtype)
        self.tensor = Tensor(source.images, source.rows, end - begin, source.lanes, source.dtype)
        self.panels = {"x": (source, RowMap())}

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the operand."""
        self.x = panels("x")

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        sizes = (self.tensor.channels, self.tensor.lanes, self.width)
        for row, _ in self.each_tile(first, end):
            copy_channels(self.x.tile(image, row), y.tile(image, row), self.begin, 0, *sizes)

    def work(self) -> int:
        """Return how many values it copies."""
        return self.tensor.elements

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        return vector_cycles(vectors_of(self.tensor, self.cpu), loads=1, stores=1)
