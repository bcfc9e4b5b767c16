"""Every row that a stage reads was computed before, and is still there."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.memory import stage_memory
from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import (
    column_bounds,
    column_rows,
    first_unowned_row,
    frontier,
    halo_steps,
    runs,
)
from tvm_sparse.columns.shapes import Edge, RegionShape, StageShape
from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.testing.columns import halo_share, rows_computed

ROW = RowMap()
WINDOW = RowMap(before=1, after=2)


def chain(height: int, *maps: RowMap, tiles: tuple[int, ...] = ()) -> RegionShape:
    stages, rows = [], height
    for i, seen in enumerate(maps):
        rows = rows * seen.factor if seen.factor > 1 else -(-rows // seen.stride)
        rows_of_tile = tiles[i] if tiles else 1
        tensor = Tensor(1, rows, 8, 16)
        stages.append(
            StageShape("stage", tensor, (Edge(i - 1, seen),), Tiles(rows_of_tile), cycles=1.0)
        )
    return RegionShape(tuple(stages), (Tensor(1, height, 8, 16),), (len(stages) - 1,))


def test_three_windows_recompute_two_rows_a_side_and_stage() -> None:
    region = chain(32, WINDOW, WINDOW, WINDOW)
    assert rows_computed(region, ColumnPlan(8, 8, "recompute")) == [32 + 3 * 4, 32 + 3 * 2, 32]
    assert rows_computed(region, ColumnPlan(8, 2, "carry")) == [32 + 3 * 4, 32 + 3 * 2, 32]
    assert rows_computed(region, ColumnPlan(32, 4, "carry")) == [32, 32, 32]
    assert halo_share(region, ColumnPlan(8, 8, "recompute")) == (12 + 6) / 96


def test_a_strided_layer_and_one_that_enlarges() -> None:
    down = chain(64, WINDOW, RowMap(stride=2, before=1, after=2))
    plan = ColumnPlan(8, 8)
    assert runs(down, plan, column_rows(down, plan, 1)) == [[(15, 32), (8, 16)]]
    up = chain(16, WINDOW, RowMap(factor=2), WINDOW)
    assert runs(up, plan, column_rows(up, plan, 1)) == [[(3, 9), (7, 17), (8, 16)]]


def test_a_halo_of_several_steps_takes_steps_of_its_own() -> None:
    region = chain(32, WINDOW, WINDOW, WINDOW)
    plan = ColumnPlan(8, 2, "carry")
    assert halo_steps(region, plan) == 1
    assert runs(region, plan, column_rows(region, plan, 1)) == [
        [(6, 10), (7, 9), (8, 8)],
        [(10, 12), (9, 11), (8, 10)],
        [(12, 14), (11, 13), (10, 12)],
        [(14, 16), (13, 15), (12, 14)],
        [(16, 18), (15, 17), (14, 16)],
    ]
    assert [m.run_rows for m in stage_memory(region, plan)] == [{4, 2}, {2, 1}, {2}]
    by_row = stage_memory(region, ColumnPlan(8, 1, "carry"))
    assert [max(m.run_rows) for m in by_row] == [2, 1, 1]
    for plan in ColumnPlan(8, 4, "carry"), ColumnPlan(8, 8, "carry"), ColumnPlan(8, 2, "recompute"):
        assert halo_steps(region, plan) == 0


def test_a_rolling_buffer_splits_no_tile_if_a_few_rows_more_prevent_it() -> None:
    region = chain(32, ROW, WINDOW, tiles=(4, 2))
    for rows in (16, 7):
        (kept, _) = stage_memory(region, ColumnPlan(rows, 2, "carry"))
        assert (kept.capacity, kept.is_carried, kept.is_split) == (8, True, False)
    # Read by the last stage in tiles that begin one row behind those of the first.
    read = StageShape(
        "add", region.stages[0].tensor, (Edge(1, ROW), Edge(0, ROW)), Tiles(2), cycles=1.0
    )
    region = RegionShape((*region.stages, read), region.inputs, (2,))
    kept = stage_memory(region, ColumnPlan(16, 2, "carry"))[0]
    assert kept.is_carried and kept.is_split


def test_tiles_are_counted_from_the_first_row_of_a_column() -> None:
    # Half of 14 rows is no multiple of a tile of 4 rows, nor of one of 2.
    region = chain(14, ROW, ROW, tiles=(4, 2))
    plan = ColumnPlan(7, 2, "carry")
    assert rows_computed(region, plan) == [14, 14]
    assert runs(region, plan, column_rows(region, plan, 1)) == [
        [(7, 11), (7, 9)],
        [(11, 11), (9, 11)],
        [(11, 14), (11, 13)],
        [(14, 14), (13, 14)],
    ]


def test_a_skip_connection_keeps_rows_for_its_reader() -> None:
    stages = (
        StageShape("conv", Tensor(1, 16, 8, 16), (Edge(-1, WINDOW),)),
        StageShape("conv", Tensor(1, 16, 8, 16), (Edge(0, WINDOW),)),
        StageShape("add", Tensor(1, 16, 8, 16), (Edge(1, ROW), Edge(0, ROW))),
    )
    region = RegionShape(stages, (Tensor(1, 16, 8, 16),), (2,))
    memory = stage_memory(region, ColumnPlan(16, 2, "carry"))
    assert [m.capacity for m in memory] == [4, 2, 0]
    assert [m.is_stored for m in memory] == [False, False, True]


maps = st.sampled_from(
    [ROW, WINDOW, RowMap(2, 1, 2), RowMap(2, 0, 1), RowMap(1, 2, 3), RowMap(factor=2)]
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_is_read_is_there(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    seen = data.draw(st.lists(maps, min_size=count, max_size=count))
    tiles = tuple(data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count)))
    region = chain(data.draw(st.integers(1, 40)), *seen, tiles=tiles)
    also = data.draw(st.sets(st.integers(0, count - 1)))
    region = RegionShape(region.stages, region.inputs, tuple(sorted({*also, count - 1})))
    overlap = data.draw(st.sampled_from(["recompute", "carry"]))
    plan = ColumnPlan(data.draw(st.integers(1, 24)), data.draw(st.integers(1, 24)), overlap).fitted(
        region
    )
    memory = stage_memory(region, plan)
    stored: list[set[int]] = [set() for _ in region.stages]
    for column in range(plan.columns(region)):
        places: list[dict[int, int]] = [{} for _ in region.stages]
        span = column_rows(region, plan, column)
        bounds = column_bounds(region, span)
        start = column * plan.column_rows
        for step, run in enumerate(runs(region, plan, span), -halo_steps(region, plan)):
            first, end = (max(row, start) for row in frontier(plan, span, step))
            for i, (low, high) in enumerate(run):
                stage = region.stages[i]
                assert low <= high
                assert low == high or high - low in memory[i].run_rows
                assert low == high or bounds[i][0] <= low < high <= bounds[i][1]
                if overlap == "carry" and high < bounds[i][1]:
                    assert (high - bounds[i][0]) % stage.tiles.rows == 0
                for edge in stage.edges:
                    if edge.source < 0 or low == high:
                        continue
                    source = region.stages[edge.source].tensor
                    for row in range(
                        max(edge.rows.first(low), 0), min(edge.rows.end(high), source.rows)
                    ):
                        capacity = memory[edge.source].capacity or source.rows
                        assert places[edge.source][row % capacity] == row
                tiles = stage.tiles.cut(low, high)
                assert [r for first, n in tiles for r in range(first, first + n)] == [
                    *range(low, high)
                ]
                if memory[i].is_carried and not memory[i].is_split:
                    capacity = memory[i].capacity or stage.tensor.rows
                    begins = [(first - bounds[i][0]) % capacity for first, _ in tiles]
                    assert all(b + n <= capacity for b, (_, n) in zip(begins, tiles, strict=True))
                for row in range(low, high):
                    places[i][row % (memory[i].capacity or stage.tensor.rows)] = row
                if i in region.outputs:
                    own = set(
                        range(
                            first_unowned_row(region, i, first), first_unowned_row(region, i, end)
                        )
                    )
                    capacity = memory[i].capacity or stage.tensor.rows
                    assert all(places[i][row % capacity] == row for row in own)
                    assert not own & stored[i]
                    stored[i] |= own
    for i in region.outputs:
        assert stored[i] == set(range(region.stages[i].tensor.rows))
