from dataclasses import replace

import pytest

from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.formats.sparse import SparseLayout
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.sparse_linear import SparseLinear
from tvm_sparse.tilings.choice import (
    dense_tiling,
    fits_registers,
    sparse_pays,
    sparse_share,
    sparse_tiling,
)

CPUS = list(PROFILES)
BERT = [(768, 768), (3072, 768), (768, 3072)]


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize(("n", "k"), [*BERT, (1000, 2048), (2, 768), (7, 13), (1, 1)])
def test_every_tiling_is_possible(name, n, k):
    cpu = profile(name)
    for vectors in (1, 2, 3, 4):
        lanes = vectors * cpu.vector_lanes
        for rows in (1, 3, 4, 8):
            tiling = sparse_tiling(n, k, rows, lanes, cpu)
            layout = SparseLayout.linear(n, k, lanes, tiling)
            assert layout.k_blocks * tiling.k_block >= k
            assert tiling.k_block * lanes * 4 <= cpu.l1_bytes
    dense = dense_tiling(n, cpu)
    assert dense.channels * dense.vectors + dense.vectors + 1 <= cpu.vector_registers


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8, 16])
def test_cores_get_equal_shares_of_usual_layers(name, rows):
    cpu = profile(name)
    tiling = sparse_tiling(768, 768, rows, 2 * cpu.vector_lanes, cpu)
    assert rows * tiling.chunks % cpu.cores == 0


def test_channels_are_not_cut_if_there_are_rows_for_all_cores():
    cpu = profile("haswell")
    assert sparse_tiling(768, 768, 8, 16, cpu).chunks == 1


def test_cores_take_equal_runs_of_rows_where_tiles_do_not_divide():
    cpu = replace(profile("skylake-avx512"), cores=2)
    tiling = sparse_tiling(512, 512, 14, 16, cpu)  # of a row of one vector
    assert (tiling.rows, tiling.chunks) == (2, 1)
    assert SparseLinear(1, 14, 16, 512, 512, tiling, Epilogue(), cpu).row_block == 7
    assert SparseLinear(2, 14, 16, 512, 512, tiling, Epilogue(), cpu).row_block == 14
    odd = sparse_tiling(512, 512, 7, 16, cpu)
    assert SparseLinear(1, 7, 16, 512, 512, odd, Epilogue(), cpu).row_block == odd.rows
    assert odd.chunks == 2


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize(("n", "k"), BERT)
def test_pruned_layers_are_sparse_and_dense_ones_dense(name, n, k):
    cpu = profile(name)
    lanes = 2 * cpu.vector_lanes
    rows = 128 // lanes
    for density, sparse in [(0, True), (0.05, True), (0.2, True), (0.9, False), (1, False)]:
        assert sparse_pays(n, k, density, rows, lanes, cpu).sparse is sparse


def test_tiny_layers_stay_dense():
    choice = sparse_pays(16, 16, 0.05, 1, 16, profile("haswell"))
    assert not choice.sparse
    assert "too small" in choice.reason


def test_reason_names_the_zeros_and_the_gain():
    cpu = profile("haswell")
    assert "95% zeros: " in sparse_pays(768, 768, 0.05, 8, 16, cpu).reason
    assert "x faster" in sparse_pays(768, 768, 0.05, 8, 16, cpu).reason
    assert "x slower" in sparse_pays(768, 768, 0.95, 8, 16, cpu).reason


def test_more_zeros_are_never_slower():
    cpu = profile("skylake-avx512")
    cycles = [sparse_pays(768, 768, d / 20, 4, 32, cpu).sparse_cycles for d in range(21)]
    assert cycles == sorted(cycles)


def test_tile_divides_the_channels_where_it_can():
    assert 768 % dense_tiling(768, profile("haswell")).channels == 0
    assert 768 % dense_tiling(768, profile("skylake-avx512")).channels == 0
    assert dense_tiling(2, profile("haswell")).channels == 2


def test_on_arm_the_weights_of_a_tile_take_a_register_for_four():
    avx512, neon = profile("skylake-avx512"), profile("rpi4")
    assert fits_registers(14, 2, avx512) and not fits_registers(15, 2, avx512)
    assert fits_registers(13, 2, neon) and not fits_registers(14, 2, neon)


def test_on_arm_the_sparse_kernel_is_as_slow_as_the_loads():
    a53, v1, a72, n1 = (
        sparse_share(profile(name)) for name in ("rpi3", "graviton3", "rpi4", "graviton2")
    )
    assert a53 < v1 < a72 == n1
    assert sparse_share(profile("haswell")) == sparse_share(profile("skylake-avx512")) < a72
