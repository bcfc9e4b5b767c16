"""Dense linear layers on AMX: which the unit computes, and when it is chosen."""

from dataclasses import replace

import pytest

from tvm_sparse.cpu.profile import profile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.amx import TILE_INPUTS
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.amx_linear import AMX_LINEAR_FAMILY, AmxLinearTiling
from tvm_sparse.tilings.families import dense_family, sparse_or_dense
from tvm_sparse.tilings.layer import Layer

CPU = profile("sapphirerapids")
BERT = Linear(2, 64, 768, 768, DType.FLOAT16)


@pytest.mark.parametrize("k", [1, 31, 32, 64, 147, 256, 300, 384, 768, 1000, 3072])
def test_blocks_are_whole_tiles_and_about_equal(k):
    layer = Layer(replace(BERT, k=k))
    tilings = [AMX_LINEAR_FAMILY.default(layer, CPU), *AMX_LINEAR_FAMILY.tilings(layer, CPU)]
    assert all(AMX_LINEAR_FAMILY.fits(layer, tiling, CPU) for tiling in tilings)
    default = tilings[0].inputs
    tiles = -(-k // TILE_INPUTS)
    blocks = -(-tiles * TILE_INPUTS // default)
    assert default <= 384 and blocks * default - tiles * TILE_INPUTS < blocks * TILE_INPUTS


@pytest.mark.parametrize(
    ("problem", "cpu", "reason"),
    [
        (BERT, profile("skylake-avx512"), "no AMX"),
        (BERT, profile("sapphirerapids-amx"), "no AMX"),
        (BERT, profile("rpi5"), "no AMX"),
        (replace(BERT, dtype=DType.FLOAT32), CPU, "float32"),
        (replace(BERT, lanes=4), CPU, "4 lanes"),
    ],
)
def test_refusals_have_a_reason(problem, cpu, reason):
    assert reason in AMX_LINEAR_FAMILY.refusal(Layer(problem), cpu)
    assert dense_family(Layer(problem), cpu).name == "linear"


def test_parts_of_tiles_do_not_fit():
    assert not AMX_LINEAR_FAMILY.fits(Layer(BERT), AmxLinearTiling(100), CPU)


def test_the_unit_computes_dense_layers_and_sparse_ones_of_few_zeros():
    assert dense_family(Layer(BERT), CPU).name == "amx_linear"
    assert not sparse_or_dense(Layer(BERT, 0.5), CPU).sparse
    assert sparse_or_dense(Layer(BERT, 0.05), CPU).sparse
