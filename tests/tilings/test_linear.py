"""Dense linear layers: their register tiles."""

import pytest

from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY, LinearTiling

BERT = [(768, 768), (3072, 768), (768, 3072)]


def layer(n, k=768, rows=4, lanes=16):
    return Layer(Linear(rows, lanes, n, k))


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize(("n", "k"), [*BERT, (1000, 2048), (2, 768), (7, 13), (1, 1)])
def test_every_tiling_is_possible(name, n, k):
    cpu = profile(name)
    dense = LINEAR_FAMILY.default(layer(n, k), cpu)
    assert dense.channels * dense.vectors + dense.vectors + 1 <= cpu.vector_registers


def test_tile_divides_the_channels_where_it_can():
    for name in ("haswell", "skylake-avx512"):
        assert 768 % LINEAR_FAMILY.default(layer(768), profile(name)).channels == 0
    assert LINEAR_FAMILY.default(layer(2), profile("haswell")).channels == 2


def test_a_narrow_tile_waits_for_the_loads_of_weights():
    cpu = profile("haswell")
    wide, narrow = (
        LINEAR_FAMILY.cycles(layer(768, lanes=16), LinearTiling(6, v), cpu) for v in (2, 1)
    )
    assert narrow > 1.2 * wide


def test_rows_of_one_vector_share_a_tile():
    """A tile of two vectors takes two rows, where it cannot take two vectors of one."""
    cpu = profile("haswell")
    two_rows, two_vectors = layer(768, rows=4, lanes=8), layer(768, rows=2, lanes=16)
    tiling = LinearTiling(3, 2)
    cycles = [LINEAR_FAMILY.cycles(shape, tiling, cpu) for shape in (two_rows, two_vectors)]
    assert cycles[0] == cycles[1]
