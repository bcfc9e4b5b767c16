"""Tiles cover every run of rows once, and the loops that run are cut as `Tiles` says."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.columns.tiles import ONE_ROW, Tiles
from tvm_sparse.cpu.profile import native
from tvm_sparse.schedules.emit.buffers import argument
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.tensor import Tensor

TILES = st.builds(Tiles, st.integers(1, 6), st.integers(1, 11))


@pytest.mark.parametrize(
    ("tiles", "run", "sizes"),
    [
        (Tiles(4), 8, [4, 4]),
        (Tiles(4), 7, [4, 3]),
        (Tiles(4, 7), 7, [7]),
        (Tiles(4, 6), 7, [4, 3]),
        (Tiles(4, 7), 3, [3]),
        (Tiles(4, 7), 9, [4, 5]),
        (ONE_ROW, 3, [1, 1, 1]),
    ],
)
def test_the_rest_of_a_run_joins_its_last_whole_tile_if_it_fits(tiles, run, sizes):
    assert tiles.sizes(run) == sizes


@given(tiles=TILES, first=st.integers(0, 9), run=st.integers(1, 40))
def test_tiles_cover_every_row_once(tiles, first, run):
    cut = tiles.cut(first, first + run)
    rows = [row for start, size in cut for row in range(start, start + size)]
    assert rows == list(range(first, first + run))
    sizes = tiles.sizes(run)
    assert max(sizes) <= tiles.largest and sum(sizes) <= tiles.up(run)
    assert set(sizes) <= set(tiles.possible({run, 1}))


class Recorder(Stage):
    """Adds, at the first row of every tile of a run, the number of the rows of the tile."""

    name = "recorder"

    def __init__(self, tiles: Tiles) -> None:
        self.tiles, self.tensor, self.panels = tiles, Tensor(1, 1, 1, 8), {}

    def declare(self, panels):
        self.run = argument("run", 1, dtype="int64")
        self.visited = argument("visited", 64, dtype="int64")

    def compute(self, y, image, first, end, chunk):
        for row, count in self.each_tile(first, end):
            T.buffer_store(self.visited, self.visited[row] + T.int64(count), [row])

    def cycles(self):
        return 0.0


def recorded(tiles, runs):
    """Return for every run of `runs` rows the tiles that the emitted loops visit."""
    stage = Recorder(tiles)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        stage.declare(None)
        with T.sblock("root"):
            T.reads()
            T.writes()
            stage.allocate(runs)
            stage.compute(None, None, T.int64(0), stage.run[0], None)
    main = tvm.compile(tvm.IRModule({"main": builder.get()}), target=native().to_target())["main"]
    for run in runs:
        sizes = tvm.runtime.tensor(np.zeros(64, "int64"))
        main(tvm.runtime.tensor(np.array([run])), sizes)
        yield run, [(int(row), int(sizes.numpy()[row])) for row in np.flatnonzero(sizes.numpy())]


@settings(max_examples=30, deadline=None)
@given(tiles=TILES, runs=st.sets(st.integers(1, 30), min_size=1, max_size=4))
def test_the_loops_that_run_are_cut_as_tiles_are(tiles, runs):
    for run, visited in recorded(tiles, runs):
        assert visited == tiles.cut(0, run)
