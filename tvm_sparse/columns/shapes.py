"""Stages and regions as planning sees them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from tvm_sparse.sizes.tensor import RowMap, Tensor


@dataclass(frozen=True)
class Edge:
    """Where an operand of a stage comes from.

    Attributes
    ----------
    source : int
        Number of the stage that computes it, or ``-1 - i`` for input `i` of the region.
    rows : RowMap, optional
        What of it is seen; None if every row sees all rows. Only inputs of the region can be.
    """

    source: int
    rows: RowMap | None


@dataclass(frozen=True)
class StageShape:
    """What the planning needs to know of a stage.

    Attributes
    ----------
    name : str
        Its operator.
    tensor : Tensor
        What it computes.
    edges : tuple of Edge
        What it reads.
    tile : int
        Rows that it computes together, from its first row in a column on.
    cycles : float
        Compute cycles of all rows of all images, from data in the nearest cache, summed over cores.
    weight_bytes : int
        Constants that every run reads.
    key : str
        Shapes, attributes and density, for the tuning records.
    window_bytes : int
        Memory that a run gathers its inputs into, for each of its rows.
    row_parts, most_tile_rows : int
        As `tvm_sparse.schedules.stage.Stage`'s.
    """

    name: str
    tensor: Tensor
    edges: tuple[Edge, ...]
    tile: int = 1
    cycles: float = 0.0
    weight_bytes: int = 0
    key: str = ""
    window_bytes: int = 0
    row_parts: int = 0
    most_tile_rows: int = 1

    def tiles(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the first row of every tile of a run of rows, and how many it has."""
        whole, rest = divmod(end - first, self.tile)
        sizes = [self.tile] * whole + [rest] * (rest > 0)
        if rest and whole and self.tile + rest <= self.most_tile_rows:
            sizes[-2:] = [self.tile + rest]
        return [(end - sum(sizes[i:]), size) for i, size in enumerate(sizes)]


@dataclass(frozen=True)
class RegionShape:
    """Stages in an order in which they can run; the last one is cut into columns.

    Attributes
    ----------
    stages : tuple of StageShape
        All have the same number of images.
    inputs : tuple of Tensor
        What stages read from outside.
    outputs : tuple of int
        Stages whose result is used outside, the last one among them.
    """

    stages: tuple[StageShape, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[int, ...]

    @property
    def images(self) -> int:
        """Images of the batch."""
        return self.stages[-1].tensor.images

    @property
    def height(self) -> int:
        """Rows of the last stage, the unit of columns and steps."""
        return self.stages[-1].tensor.rows

    @functools.cached_property
    def consumers(self) -> tuple[tuple[tuple[int, RowMap], ...], ...]:
        """For every stage, the stages that read it and the rows they see."""
        found: list[list[tuple[int, RowMap]]] = [[] for _ in self.stages]
        for reader, stage in enumerate(self.stages):
            for edge in stage.edges:
                if edge.source >= 0:
                    if edge.rows is None:
                        raise ValueError(f"{stage.name} reads all rows of a stage of its region")
                    found[edge.source].append((reader, edge.rows))
        return tuple(map(tuple, found))


def part(region: RegionShape, first: int, end: int) -> RegionShape:
    """Return the stages ``[first, end)`` of a region as a region."""
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
