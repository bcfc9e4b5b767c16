"""Regions whose rows are extents: planned with hints, run with expressions."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.columns.heights import growth_of
from tvm_sparse.columns.memory import stage_memory
from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import (
    RowArithmetic,
    column_bounds,
    column_rows,
    frontier,
    halo_steps,
    runs,
)
from tvm_sparse.columns.shapes import Edge, RegionShape, StageShape
from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.costs.best_plan import best_plan
from tvm_sparse.costs.regions import predict, predict_alone
from tvm_sparse.cpu.profile import profile
from tvm_sparse.schedules.tensor_column import EXPRESSIONS
from tvm_sparse.sizes.extent import Extent, value_of
from tvm_sparse.sizes.tensor import RowMap, Tensor

HINT = 56
HEIGHT = Extent.symbol("height", HINT)
IMAGES = Extent.symbol("images", 4)
CPU = dataclasses.replace(profile("haswell"), cores=2)
PLANS = [ColumnPlan(7, 3, "carry"), ColumnPlan(8, 2, "recompute"), ColumnPlan(16, 16, "carry")]


def region(height, images=2) -> RegionShape:
    """Three 3x3 windows, of which the second has stride 2, on images of some height."""
    half = (height - 1) // 2 + 1
    rows = [height, half, half]
    seen = [RowMap(1, 1, 2), RowMap(2, 1, 2), RowMap(1, 1, 2)]
    stages = [
        StageShape("conv", Tensor(images, rows[i], 32, 64), (Edge(i - 1, seen[i]),), Tiles(2), 1e6)
        for i in range(3)
    ]
    return RegionShape(tuple(stages), (Tensor(images, height, 32, 64),), (2,))


@pytest.mark.parametrize("plan", PLANS)
def test_costs_and_memory_are_those_of_the_hints(plan):
    extended, static = region(HEIGHT, IMAGES), region(HINT, 4)
    assert predict(extended, plan, CPU) == predict(static, plan, CPU)
    assert stage_memory(region(HINT, IMAGES), plan) == stage_memory(static, plan)
    assert halo_steps(extended, plan) == halo_steps(static, plan)


def tokens(rows) -> RegionShape:
    """Three operators of which each output row sees the input row of its number."""
    tensor, tiles = Tensor(2, rows, 32, 16), (Tiles(3, 4), Tiles(), Tiles(2))
    stages = [StageShape("f", tensor, (Edge(i - 1, RowMap()),), tiles[i]) for i in range(3)]
    return RegionShape(tuple(stages), (tensor,), (1, 2))


@pytest.mark.parametrize("plan", PLANS)
def test_memory_is_enough_for_every_number_of_rows(plan):
    memory = stage_memory(tokens(Extent.symbol("rows", 5)), plan)
    assert memory == stage_memory(tokens(Extent.symbol("rows", 500)), plan)
    for rows in range(1, 60):
        for any_rows, of_rows in zip(memory, stage_memory(tokens(rows), plan), strict=True):
            assert of_rows.run_rows <= any_rows.run_rows
            assert of_rows.capacity <= any_rows.capacity


UNIT = Extent.symbol("unit", 5)
WINDOW, STRIDED = RowMap(before=1, after=2), RowMap(stride=2, before=1, after=2)


def enlarging(unit) -> RegionShape:
    """Windows on images of ``8 * unit`` rows, halved and enlarged again, with a skip connection."""
    rows = [8 * unit, 4 * unit, 4 * unit, 8 * unit, 8 * unit]
    edges = [
        (Edge(-1, WINDOW),),
        (Edge(0, STRIDED),),
        (Edge(1, WINDOW),),
        (Edge(2, RowMap(factor=2)), Edge(0, RowMap())),
        (Edge(3, WINDOW),),
    ]
    tiles = (Tiles(2, 3), Tiles(), Tiles(3), Tiles(2), Tiles(1))
    stages = tuple(
        StageShape("f", Tensor(1, *size), own, tile)
        for size, own, tile in zip([(r, 32, 16) for r in rows], edges, tiles, strict=True)
    )
    return RegionShape(stages, (Tensor(1, 8 * unit, 32, 16),), (1, 4))


@pytest.mark.parametrize("plan", [*PLANS, ColumnPlan(5, 1, "carry")])
def test_memory_of_windows_is_enough_for_every_height(plan):
    memory = stage_memory(enlarging(UNIT), plan)
    for unit in (1, 2, 3, 4, 7, 11):
        known = enlarging(unit)
        for count in range(-(-known.height // plan.column_rows), known.height + 1):
            rows = RowArithmetic(columns=count)
            for column in range(count):
                span = column_rows(known, plan, column, rows)
                bounds = column_bounds(known, span)
                for run in runs(known, plan, span):
                    for i, (first, end) in enumerate(run):
                        assert first == end or end - first in memory[i].run_rows
                        for edge in known.stages[i].edges:
                            if edge.source < 0 or first == end:
                                continue
                            held = run[edge.source][1] - max(edge.rows.first(first), 0)
                            assert held <= (memory[edge.source].capacity or held)
                        if memory[i].is_carried and memory[i].capacity and not memory[i].is_split:
                            origin, capacity = bounds[i][0], memory[i].capacity
                            for begin, size in known.stages[i].tiles.cut(
                                first - origin, end - origin
                            ):
                                assert begin % capacity + size <= capacity


def test_stages_whose_rows_do_not_grow_alike_are_no_columns():
    assert growth_of(enlarging(UNIT)) is not None
    assert growth_of(region(HEIGHT)) is None  # an odd height has a row more than two halves
    with pytest.raises(ValueError, match="rows"):
        stage_memory(region(HEIGHT), PLANS[0])
    other = dataclasses.replace(enlarging(UNIT), outputs=(1, 2, 4))
    grows = [dataclasses.replace(other.stages[0], tensor=Tensor(1, 8 * UNIT + 1, 32, 16))]
    assert growth_of(dataclasses.replace(other, outputs=(0, 4))) is not None
    shifted = dataclasses.replace(other, stages=(*grows, *other.stages[1:]), outputs=(0, 4))
    assert growth_of(shifted) is None  # which rows of it are whose depends on the height


def test_plans_are_those_of_the_hints():
    assert best_plan(region(HEIGHT, IMAGES), CPU) == best_plan(region(HINT, 4), CPU)
    (first, _) = (dataclasses.replace(region(h), outputs=(0,)) for h in (HEIGHT, HINT))
    alone = dataclasses.replace(first, stages=first.stages[:1])
    assert predict_alone(alone, CPU) == predict_alone(alone.planned, CPU)


@given(height=st.integers(16, 300), plan=st.sampled_from(PLANS))
def test_rows_are_those_of_the_expressions(height, plan):
    rows = RowArithmetic(size=lambda size: value_of(size, {"height": height}))
    extended, static = region(HEIGHT), region(height)
    for column in range(plan.columns(static)):
        span = column_rows(static, plan, column)
        assert column_rows(extended, plan, column, rows) == span
        assert column_bounds(extended, span, rows) == column_bounds(static, span)
        for step in range(plan.steps()):
            assert frontier(plan, span, step, rows) == frontier(plan, span, step)


def test_a_static_region_plans_with_itself():
    static = region(HINT)
    assert static.planned is static
    assert region(HEIGHT).planned == static
    assert region(HEIGHT) != static


def test_a_size_that_no_parameter_gives_is_an_error_in_loops():
    with pytest.raises(ValueError, match="height"):
        column_bounds(region(HEIGHT), (0, 8), EXPRESSIONS)
