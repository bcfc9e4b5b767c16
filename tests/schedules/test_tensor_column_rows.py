"""The rows that run in a region are those that its plan counts: here, the stages count them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.tirx.script import builder as T

from tvm_sparse.columns.memory import stage_memory
from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.costs.regions import predict
from tvm_sparse.cpu.profile import native
from tvm_sparse.cpu.threads import start_pool
from tvm_sparse.schedules.emit.buffers import argument
from tvm_sparse.schedules.emit.row_vectors import each_vector
from tvm_sparse.schedules.emit.sizes import size
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.schedules.tensor_column import Region, tensor_column
from tvm_sparse.sizes.extent import Extent, value_of
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.testing.columns import halo_share, rows_computed

CPU = native()


class CountingStage(Stage):
    """The sum of the rows that an output row sees; counts how often every row is computed.

    Parameters
    ----------
    tensor : Tensor
        The result.
    source : Tensor
        The operand, of the same channels and lanes.
    seen : RowMap
        The rows of the operand that an output row sees.
    tiles : Tiles
        The tiles in which the result is computed.
    """

    name = "counting"

    def __init__(self, tensor: Tensor, source: Tensor, seen: RowMap, tiles: Tiles) -> None:
        self.tensor, self.source, self.seen = tensor, source, seen
        self.tiles = tiles
        self.panels = {"x": (source, seen)}

    def declare(self, panels):
        self.x = panels("x")
        self.counts = argument("counts", self.tensor.images, size(self.tensor.rows), dtype="int64")

    def compute(self, y, image, first, end, chunk):
        for start, count in self.each_tile(first, end):
            tile = y.tile(image, start, count)
            for i in range(count):
                place = [image, start + i]
                T.buffer_store(self.counts, self.counts[tuple(place)] + T.int64(1), place)
                low, high = self._rows_seen(start + i)
                for channel, lane in each_vector(self.tensor.channels, self.tensor.lanes, LANES):
                    tile.store(T.Broadcast(T.float32(0), LANES), i, channel, lane)
                    with T.serial(T.int64(0), high - low) as j:
                        value = self.x.tile(image, low + j)[0, channel, lane]
                        tile.store(tile[i, channel, lane] + value, i, channel, lane)

    def _rows_seen(self, row):
        low = T.bind(T.max(self.seen.first(row), T.int64(0)))
        return low, T.bind(T.min(self.seen.end(row + 1), size(self.source.rows)))

    def cycles(self):
        return float(self.tensor.images * self.tensor.rows)


WINDOW = RowMap(before=1, after=2)
STRIDED = RowMap(stride=2, before=1, after=2)
ENLARGED = RowMap(factor=2)
LANES = 4


def counting_region(height, maps, tiles, images, most_tile_rows=1):
    """Return a chain of stages that each read `maps` rows of the one before."""
    source = Tensor(images, height, 1, LANES)
    inputs, stages = (source,), []
    for seen, tile in zip(maps, tiles, strict=True):
        rows = source.rows * seen.factor if seen.factor > 1 else -(-source.rows // seen.stride)
        tensor = Tensor(images, rows, 1, LANES)
        stages.append(CountingStage(tensor, source, seen, Tiles(tile, most_tile_rows)))
        source = tensor
    operands = tuple({"x": i - 1} for i in range(len(stages)))
    return Region(tuple(stages), operands, inputs, (len(stages) - 1,))


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(3, 40),
    maps=st.lists(st.sampled_from([WINDOW, WINDOW, STRIDED, ENLARGED]), min_size=2, max_size=4),
    tiles=st.lists(st.integers(1, 4), min_size=4, max_size=4),
    most_tile_rows=st.integers(1, 6),
    images=st.integers(1, 2),
    column=st.integers(1, 20),
    step=st.integers(1, 8),
    overlap=st.sampled_from(["recompute", "carry"]),
)
def test_rows_that_run_are_those_that_were_counted(
    height, maps, tiles, most_tile_rows, images, column, step, overlap
):
    region = counting_region(height, maps, tiles[: len(maps)], images, most_tile_rows)
    shape = region.shape
    plan = ColumnPlan(column, step, overlap).fitted(shape)
    counts = count_rows(region, plan, images)
    for counted, planned in zip(counts, rows_computed(shape, plan), strict=True):
        assert counted.sum() == images * planned
        assert (counted >= 1).all()
    work = sum(int(counted.sum()) for counted in counts)
    once = sum(stage.tensor.images * stage.tensor.rows for stage in region.stages)
    assert halo_share(shape, plan) == pytest.approx(work / once - 1)


def count_rows(region, plan, images):
    """Return how often each row of each stage is computed."""
    return counted_rows(region, compiled(region, plan), images, {})


def compiled(region, plan, cores=1):
    func = tensor_column(region, plan, cores).with_attr("global_symbol", "main")
    return tvm.compile(tvm.IRModule({"main": func}), target=CPU.to_target())["main"]


def counted_rows(region, main, images, sizes):
    """Run a region's function and check it; one thread, so that the count misses no row."""
    heights = [value_of(stage.tensor.rows, sizes) for stage in region.stages]
    counts = [tvm.runtime.tensor(np.zeros((images, rows), "int64")) for rows in heights]
    rng = np.random.default_rng(0)
    tensor = region.inputs[0]
    x = rng.integers(-3, 4, (images, value_of(tensor.rows, sizes), tensor.channels, tensor.lanes))
    result = region.stages[-1].tensor
    shape = (images * heights[-1], result.channels, result.lanes)
    y = tvm.runtime.tensor(np.full(shape, np.nan, "float32"))
    panels = tvm.runtime.tensor(x.reshape(-1, *x.shape[2:]).astype("float32"))
    given = [value_of(extent, sizes) for extent in region.sizes]
    with ThreadPoolExecutor(1, initializer=start_pool, initargs=(1,)) as executor:
        executor.submit(main, panels, *counts, *given, y).result()
    for stage, height in zip(region.stages, heights, strict=True):
        rows = np.arange(height)
        low = np.maximum([stage.seen.first(int(row)) for row in rows], 0)
        high = np.minimum([stage.seen.end(int(row) + 1) for row in rows], x.shape[1])
        x = np.stack([x[:, a:b].sum(axis=1) for a, b in zip(low, high, strict=True)], axis=1)
    np.testing.assert_array_equal(y.numpy(), x.reshape(y.shape))
    return [count.numpy() for count in counts]


UNIT = Extent.symbol("unit", 3)


@settings(max_examples=6, deadline=None)
@given(
    maps=st.lists(st.sampled_from([WINDOW, WINDOW, STRIDED, ENLARGED]), min_size=2, max_size=4),
    tiles=st.lists(st.integers(1, 3), min_size=4, max_size=4),
    most_tile_rows=st.integers(1, 5),
    column=st.integers(1, 14),
    step=st.integers(1, 6),
    overlap=st.sampled_from(["recompute", "carry"]),
)
def test_columns_of_any_height(maps, tiles, most_tile_rows, column, step, overlap):
    region = counting_region(16 * UNIT, maps, tiles[: len(maps)], 1, most_tile_rows)
    main = compiled(region, ColumnPlan(column, step, overlap), cores=3)
    for unit in (1, 2, 3, 8):
        counts = counted_rows(region, main, 1, {"unit": unit})
        assert all((count >= 1).all() for count in counts)
        assert (counts[-1] == 1).all()


@pytest.mark.parametrize("overlap", ["recompute", "carry"])
def test_the_predicted_halo_is_the_one_that_runs(overlap):
    region = counting_region(36, [WINDOW] * 3, [1, 1, 1], 1)
    plan = ColumnPlan(12, 4, overlap)
    counts = count_rows(region, plan, 1)
    # Three columns, of which two meet a neighbour on one side and one on both.
    rows = [36 + 4 * 2, 36 + 4, 36] if overlap == "carry" else [36 + 8 * 4, 36 + 8 * 2, 36]
    assert [int(count.sum()) for count in counts] == rows
    share = sum(rows) / (3 * 36) - 1
    assert predict(region.shape, plan, CPU).halo_share == pytest.approx(share)


def test_carried_rows_are_computed_once():
    region = counting_region(30, [WINDOW, WINDOW], [1, 1], 2)
    plan = ColumnPlan(30, 3, "carry")
    assert all((count == 1).all() for count in count_rows(region, plan, 2))
    assert [m.capacity for m in stage_memory(region.shape, plan)] == [5, 0]


def test_columns_need_not_be_whole_tiles():
    region = counting_region(14, [RowMap(), RowMap()], [4, 2], 1)
    assert all((count == 1).all() for count in count_rows(region, ColumnPlan(7, 2, "carry"), 1))


def test_a_column_begins_anew():
    # Rows that the last column left behind are not those that the next one needs.
    region = counting_region(24, [WINDOW, WINDOW], [1, 1], 2)
    counts = count_rows(region, ColumnPlan(8, 2, "carry"), 2)
    twice = [7, 8, 15, 16]
    expected = np.ones((2, 24), "int64")
    expected[:, twice] = 2
    np.testing.assert_array_equal(counts[0], expected)
