"""The facts of stages and regions that plans and costs depend on."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from tvm_sparse.columns.tiles import ONE_ROW, Tiles
from tvm_sparse.sizes.tensor import RowMap, Tensor


@dataclass(frozen=True)
class Edge:
    """An operand of a stage: where it comes from, and which of its rows the stage sees.

    Attributes
    ----------
    source : int
        Number of the stage that computes the operand, or ``-1 - i`` for input `i` of the region.
    rows : RowMap, optional
        The rows that an output row sees. None if every output row sees all rows, which is allowed
        for inputs of the region only.
    """

    source: int
    rows: RowMap | None


@dataclass(frozen=True)
class StageShape:
    """The facts of a stage that plans and costs depend on.

    Attributes
    ----------
    name : str
        The operator.
    tensor : Tensor
        The result.
    edges : tuple of Edge
        The operands that are panels.
    tiles : Tiles
        How runs of its rows are cut into tiles.
    cycles : float
        Compute cycles of all rows of all images, with data in the nearest cache, summed over cores.
    weight_bytes : int
        Bytes of the constants that every run reads.
    key : str
        Shapes, attributes and density, for the tuning records.
    window_bytes : int
        Bytes, for each row of a run, of the memory into which the run gathers its inputs.
    row_parts : int
        Parts into which a kernel of this stage alone cuts the rows before it cuts channels; 0 if it
        cuts no channels.
    run_cycles : float
        Compute cycles of a run of any number of rows, besides the cycles of its rows.
    """

    name: str
    tensor: Tensor
    edges: tuple[Edge, ...]
    tiles: Tiles = ONE_ROW
    cycles: float = 0.0
    weight_bytes: int = 0
    key: str = ""
    window_bytes: int = 0
    row_parts: int = 0
    run_cycles: float = 0.0


@dataclass(frozen=True)
class RegionShape:
    """Stages in an order in which they can run; the last one is cut into columns.

    Attributes
    ----------
    stages : tuple of StageShape
        The stages; all have the same number of images.
    inputs : tuple of Tensor
        The tensors that stages read from outside of the region.
    outputs : tuple of int
        Numbers of the stages whose result is used outside of the region, the last one among them.
    """

    stages: tuple[StageShape, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[int, ...]

    @property
    def images(self) -> int:
        """Images of the batch."""
        return self.stages[-1].tensor.images

    @functools.cached_property
    def planned(self) -> RegionShape:
        """The region in which every extent is the plain number of its hint.

        Costs and plans see this one; the loops that run see the region itself.
        """
        tensors = [*(stage.tensor for stage in self.stages), *self.inputs]
        if not any(tensor.is_extended for tensor in tensors):
            return self
        stages = tuple(replace(stage, tensor=stage.tensor.planned) for stage in self.stages)
        inputs = tuple(tensor.planned for tensor in self.inputs)
        return replace(self, stages=stages, inputs=inputs)

    @property
    def height(self) -> int:
        """Rows of the last stage, the unit of columns and steps."""
        return self.stages[-1].tensor.rows

    @property
    def is_row_by_row(self) -> bool:
        """Whether each row of every stage sees only the row of its number, of stages and inputs."""
        seen = {edge.rows for stage in self.stages for edge in stage.edges}
        return seen <= {None, RowMap()}

    @functools.cached_property
    def consumers(self) -> tuple[tuple[tuple[int, RowMap], ...], ...]:
        """For every stage, the numbers of the stages that read it, and which rows they see."""
        found: list[list[tuple[int, RowMap]]] = [[] for _ in self.stages]
        for reader, stage in enumerate(self.stages):
            for edge in stage.edges:
                if edge.source >= 0:
                    if edge.rows is None:
                        raise ValueError(f"{stage.name} reads all rows of a stage of its region")
                    found[edge.source].append((reader, edge.rows))
        return tuple(map(tuple, found))


def part(region: RegionShape, first: int, end: int) -> RegionShape:
    """Return the stages ``[first, end)`` of a region as a region of their own."""
    inputs: dict[int, int] = {}
    stages = []
    for stage in region.stages[first:end]:
        edges = []
        for edge in stage.edges:
            source = edge.source - first
            if edge.source < first:
                source = -1 - inputs.setdefault(edge.source, len(inputs))
            edges.append(Edge(source, edge.rows))
        stages.append(replace(stage, edges=tuple(edges)))
    tensors = [region.stages[i].tensor if i >= 0 else region.inputs[-1 - i] for i in inputs]
    outputs = tuple(
        i - first
        for i in range(first, end)
        if i in region.outputs or any(reader >= end for reader, _ in region.consumers[i])
    )
    return RegionShape(tuple(stages), tuple(tensors), outputs)
