import pytest

from tvm_sparse.cost_model import dense_tiling, sparse_pays, sparse_tiling
from tvm_sparse.formats import SparseLayout
from tvm_sparse.targets import PROFILES, profile

CPUS = list(PROFILES)


@pytest.mark.parametrize("name", CPUS)
@pytest.mark.parametrize(
    ("n", "k"), [(768, 768), (3072, 768), (768, 3072), (1000, 2048), (2, 768), (7, 13), (1, 1)]
)
@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
def test_every_tiling_is_possible(name, n, k, vectors):
    cpu = profile(name)
    lanes = vectors * cpu.vector_lanes
    for density in (0.0, 0.05, 1.0):
        tiling = sparse_tiling(n, k, density, lanes, cpu)
        layout = SparseLayout(n, k, lanes, tiling)
        assert layout.k_blocks * tiling.k_block >= k
        assert tiling.k_block * lanes * 4 <= cpu.l1_bytes
    dense = dense_tiling(n, cpu)
    assert dense.channels * dense.vectors + dense.vectors + 1 <= cpu.vector_registers


@pytest.mark.parametrize("name", CPUS)
def test_cores_get_equal_shares_of_usual_layers(name):
    cpu = profile(name)
    tiling = sparse_tiling(768, 768, 0.05, 2 * cpu.vector_lanes, cpu)
    assert tiling.chunks % cpu.cores == 0


@pytest.mark.parametrize("name", CPUS)
def test_pruned_layers_are_sparse_and_dense_ones_dense(name):
    cpu = profile(name)
    lanes = 2 * cpu.vector_lanes
    rows = 128 // lanes
    for n, k in [(768, 768), (3072, 768), (768, 3072)]:
        assert sparse_pays(n, k, 0.05, rows, lanes, cpu).sparse
        assert sparse_pays(n, k, 0.20, rows, lanes, cpu).sparse
        assert not sparse_pays(n, k, 0.90, rows, lanes, cpu).sparse
        assert not sparse_pays(n, k, 1.00, rows, lanes, cpu).sparse


def test_reason_names_the_zeros_and_the_gain():
    cpu = profile("haswell")
    assert "95% zeros" in sparse_pays(768, 768, 0.05, 8, 16, cpu).reason
    assert "would cost" in sparse_pays(768, 768, 0.95, 8, 16, cpu).reason


def test_more_zeros_are_never_slower():
    cpu = profile("skylake-avx512")
    cycles = [sparse_pays(768, 768, d / 20, 4, 32, cpu).sparse_cycles for d in range(21)]
    assert cycles == sorted(cycles)


def test_tile_divides_the_channels_where_it_can():
    assert 768 % dense_tiling(768, profile("haswell")).channels == 0
    assert 768 % dense_tiling(768, profile("skylake-avx512")).channels == 0
    assert dense_tiling(2, profile("haswell")).channels == 2
