"""Sparse linear layers: their tilings, and when they are worth it."""

from dataclasses import replace

import numpy as np
import pytest

from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.formats.sparse import PackedSparse, SparseLayout, SparseTiling
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.sparse_linear import SparseLinear
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.tilings.families import sparse_or_dense
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_linear import (
    SPARSE_LINEAR_FAMILY,
    cut_in_parts,
    parts_of,
    sparse_share,
)

CPUS = list(PROFILES)
BERT = [(768, 768), (3072, 768), (768, 3072)]


def default(n, k, rows, lanes, cpu):
    return SPARSE_LINEAR_FAMILY.default(Layer(Linear(rows, lanes, n, k)), cpu)


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize(("n", "k"), [*BERT, (1000, 2048), (2, 768), (7, 13), (1, 1)])
def test_every_tiling_is_possible(name, n, k):
    cpu = profile(name)
    for vectors in (1, 2, 3, 4):
        lanes = vectors * cpu.vector_lanes()
        for rows in (1, 3, 4, 8):
            tiling = default(n, k, rows, lanes, cpu)
            layout = SparseLayout.linear(n, k, lanes, tiling)
            assert layout.k_blocks * tiling.k_block >= k
            assert tiling.k_block * lanes * 4 <= cpu.l1_bytes


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8, 16])
def test_cores_get_equal_shares_of_usual_layers(name, rows):
    cpu = profile(name)
    tiling = default(768, 768, rows, 2 * cpu.vector_lanes(), cpu)
    assert rows * tiling.chunks % cpu.cores == 0


def test_channels_are_not_cut_if_there_are_rows_for_all_cores():
    cpu = profile("haswell")
    assert default(768, 768, 8, 16, cpu).chunks == 1


def test_cores_take_equal_runs_of_rows_where_tiles_do_not_divide():
    cpu = replace(profile("skylake-avx512"), cores=2)
    tiling = default(512, 512, 14, 16, cpu)  # of a row of one vector
    assert (tiling.rows, tiling.chunks) == (2, 1)
    assert SparseLinear(Tensor(1, 14, 512, 16), 512, tiling, Epilogue(), cpu).row_block == 7
    assert SparseLinear(Tensor(2, 14, 512, 16), 512, tiling, Epilogue(), cpu).row_block == 14
    odd = default(512, 512, 7, 16, cpu)
    assert SparseLinear(Tensor(1, 7, 512, 16), 512, odd, Epilogue(), cpu).row_block == odd.rows
    assert odd.chunks == 2


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize(("n", "k"), BERT)
def test_pruned_layers_are_sparse_and_dense_ones_dense(name, n, k):
    cpu = profile(name)
    lanes = 2 * cpu.vector_lanes()
    rows = 128 // lanes
    for density, sparse in [(0, True), (0.05, True), (0.2, True), (0.9, False), (1, False)]:
        assert sparse_or_dense(Layer(Linear(rows, lanes, n, k), density), cpu).sparse is sparse


def test_on_arm_the_sparse_kernel_is_as_slow_as_the_loads():
    a53, v1, a72, n1 = (
        sparse_share(profile(name), ACTIVATIONS)
        for name in ("rpi3", "graviton3", "rpi4", "graviton2")
    )
    assert a53 < v1 < a72 == n1
    assert (
        sparse_share(profile("haswell"), ACTIVATIONS)
        == sparse_share(profile("skylake-avx512"), ACTIVATIONS)
        < a72
    )


def test_a_tile_of_more_rows_loads_fewer_weights():
    cpu = profile("skylake-avx512")
    layer = Layer(Linear(8, 16, 768, 768), 0.1)
    tilings = [replace(default(768, 768, 8, 16, cpu), group=4, rows=rows) for rows in (1, 2, 4)]
    cycles = [SPARSE_LINEAR_FAMILY.cycles(layer, tiling, cpu) for tiling in tilings]
    assert cycles == sorted(cycles, reverse=True)


@pytest.mark.parametrize(
    ("rows", "lanes", "density", "tile"),
    [
        (28, 32, 0.15, 4),
        (56, 64, 0.15, 2),
        (28, 32, 0.1, 2),
        (56, 64, 0.1, 1),
        (2, 64, 0.2, 1),  # one panel for each core
        (8, 128, 0.2, 1),
        (9, 32, 0.2, 3),  # no whole tiles
    ],
)
def test_dense_weights_of_float16_meet_wider_tiles(rows, lanes, density, tile):
    cpu = replace(profile("sapphirerapids"), cores=2)
    layer = Layer(Linear(rows, lanes, 256, 256, DType.FLOAT16), density)
    assert SPARSE_LINEAR_FAMILY.default(layer, cpu).rows == tile
    in_float32 = Layer(Linear(rows, lanes, 256, 256), density)
    assert SPARSE_LINEAR_FAMILY.default(in_float32, cpu).rows == 1


def test_cores_that_wait_cost_time():
    cpu = replace(profile("skylake-avx512"), cores=4)
    layer = Layer(Linear(2, 32, 768, 768), 0.1)
    even = SPARSE_LINEAR_FAMILY.default(layer, cpu)
    assert even.chunks == 2
    waiting = replace(even, chunks=1)
    even_cycles, waiting_cycles = (
        SPARSE_LINEAR_FAMILY.cycles(layer, tiling, cpu) for tiling in (even, waiting)
    )
    assert waiting_cycles == 2 * even_cycles


@pytest.mark.parametrize(("n", "cores"), [(384, 2), (1536, 2), (768, 4), (384, 64), (100, 8)])
def test_cores_share_the_channels_of_a_row(n, cores):
    tiling = cut_in_parts(SparseTiling(group=6, k_block=128), n, cores)
    layout = SparseLayout.linear(n, 1000, 16, tiling)
    parts = parts_of(layout, cores)
    assert (parts > 1) == (n != 100)
    rng = np.random.default_rng(0)
    weight = (rng.random((n, 1000)) < 0.1).astype("float32")
    packed = PackedSparse.from_dense(weight, 16, tiling)
    channels = packed.channels.reshape(layout.k_blocks, parts, -1)
    for part in range(parts):  # has its channels to itself in all K blocks
        own = range(part * n // parts, (part + 1) * n // parts)
        for block in channels[:, part]:
            assert set(block) == set(own)


def test_parts_of_one_k_block_need_no_windows():
    layout = SparseLayout.linear(384, 128, 16, SparseTiling(group=6, k_block=128))
    assert parts_of(layout, 2) == 2
    deep = SparseLayout.linear(384, 256, 16, SparseTiling(group=6, k_block=128))
    assert parts_of(deep, 2) == 1
