"""Regions that are priced together cost what each of them costs by itself."""

from __future__ import annotations

import random

import pytest

from tvm_sparse.columns.shapes import Edge, RegionShape, StageShape, part
from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.costs.best_plan import best_plan
from tvm_sparse.costs.endings import best_endings
from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.sizes.tensor import RowMap, Tensor

STRIDES = 1, 1, 1, 1, 2, 3


def random_region(rng: random.Random) -> RegionShape:
    """Return stages with windows, strides, enlargements, several readers and outputs."""
    images, rows = rng.choice([1, 1, 2, 3]), [rng.choice([5, 14, 61, 224])]
    lanes = rng.choice([16, 64])

    def tensor(height: int) -> Tensor:
        return Tensor(images, height, rng.randrange(1, 513), lanes)

    inputs = [tensor(rows[0])]
    sources, stages = {-1: inputs[0]}, []
    for i in range(rng.randrange(1, 13)):
        source = rng.choice([max(sources), rng.choice(list(sources))])
        before = rng.randrange(3)
        seen = RowMap(rng.choice(STRIDES), before, rng.randrange(1, 4))
        height = max(-(-sources[source].rows // seen.stride), 1)
        if rng.random() < 0.1:
            seen, height = RowMap(factor=2), 2 * sources[source].rows
        edges = [Edge(source, seen)]
        for other, known in sources.items():
            if known.rows == height and rng.random() < 0.3:
                edges.append(Edge(other, RowMap()))
        if rng.random() < 0.2:
            inputs.append(tensor(rng.choice([height, 7])))
            sources[-len(inputs)] = inputs[-1]
            edges.append(Edge(-len(inputs), RowMap() if inputs[-1].rows == height else None))
        tile = rng.choice([1, 1, 2, 4])
        stages.append(
            StageShape(
                name=f"stage{i}",
                tensor=tensor(height),
                edges=tuple(edges),
                tiles=Tiles(tile, tile + rng.randrange(2)),
                cycles=10 ** rng.uniform(3, 8),
                weight_bytes=rng.choice([0, 4096, 1 << 20, 8 << 20]),
                window_bytes=rng.choice([0, 0, 8192]),
                run_cycles=rng.choice([0.0, 500.0]),
            )
        )
        sources[i] = stages[-1].tensor
    read = {edge.source for stage in stages for edge in stage.edges}
    last = len(stages) - 1
    outputs = (i for i in range(last) if i not in read or rng.random() < 0.1)
    return RegionShape(tuple(stages), tuple(inputs), (*outputs, last))


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize("overlap", ["auto", "recompute", "carry"])
def test_every_ending_costs_what_it_costs_by_itself(name, overlap):
    rng = random.Random(f"{name} {overlap}")
    for _ in range(4):
        region, cpu = random_region(rng), profile(name)
        endings = best_endings(region, cpu, overlap)
        assert len(endings) == len(region.stages)
        for first, ending in enumerate(endings):
            shape = part(region, first, len(region.stages))
            plan, alone = best_plan(shape, cpu, overlap)
            assert ending.plan == plan
            assert ending.seconds == pytest.approx(alone.seconds, rel=1e-9)
