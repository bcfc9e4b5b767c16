"""float16 has half the bytes, twice the lanes and other rates, through costs and plans."""

import dataclasses

import pytest

from tvm_sparse.columns.memory import scratch_bytes, stage_memory
from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.shapes import Edge, RegionShape, StageShape
from tvm_sparse.costs.best_plan import promising_plans
from tvm_sparse.costs.regions import predict
from tvm_sparse.costs.vectors import vectors_of
from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.cpu.rates import line_elements
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.tilings.block_forms import BLOCK_ROWS_FAMILIES
from tvm_sparse.tilings.families import FAMILIES
from tvm_sparse.tilings.flat_conv2d import FLAT_CONV2D_FAMILY
from tvm_sparse.tilings.joined_conv2d import as_conv2d
from tvm_sparse.tilings.layer import Layer

HALF = DType.FLOAT16
CPU = profile("skylake-avx512")


def conv2d(dtype, groups=1):
    """A 3x3 layer whose rows are four vectors of float32, or two of float16."""
    sizes = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "groups": groups}
    return Conv2d(1, 64, 64, 64, 64, **sizes, lanes_in=64, lanes_out=64, dtype=dtype)


def narrow(dtype):
    """Rows that fill a part of a vector."""
    return Linear(7, 8, 768, 768, dtype)


LAYERS = {
    "joined_linear": narrow,
    "joined_conv2d": lambda dtype: as_conv2d(narrow(dtype)),
    "sparse_linear": lambda dtype: Linear(16, 64, 768, 768, dtype),
    "linear": lambda dtype: Linear(16, 64, 768, 768, dtype),
    "amx_linear": lambda dtype: Linear(16, 64, 768, 768, dtype),
    "sparse_row_linear": lambda dtype: Linear(4, 1, 768, 768, dtype),
    "row_linear": lambda dtype: Linear(4, 1, 768, 768, dtype),
    "sparse_conv2d": conv2d,
    "amx_conv2d": conv2d,
    "conv2d": conv2d,
    "depthwise_conv2d": lambda dtype: conv2d(dtype, groups=64),
}

FLOATS = [family for family in FAMILIES if family.name in LAYERS]
"""Those of integers multiply the same integers whatever the panels are, and one is of float32."""


def region(dtype, height=512):
    """Three windows of three rows, on images that do not stay in the caches."""
    tensor = Tensor(1, height, 64, 512, dtype)
    cycles = 3.0 * vectors_of(tensor, CPU)
    stages = tuple(
        StageShape("pool", tensor, (Edge(i - 1, RowMap(1, 1, 2)),), cycles=cycles) for i in range(3)
    )
    return RegionShape(stages, (tensor,), (2,))


def test_all_other_families_are_of_integers_or_of_float32():
    others = [family for family in FAMILIES if family not in (*FLOATS, FLAT_CONV2D_FAMILY)]
    assert all("int8" in family.name or family in BLOCK_ROWS_FAMILIES for family in others)
    rows = {"width": 20, "lanes_in": 32, "lanes_out": 32}
    reasons = {
        d: FLAT_CONV2D_FAMILY.refusal(Layer(dataclasses.replace(conv2d(d), **rows)), CPU)
        for d in (DType.FLOAT32, HALF)
    }
    assert not reasons[DType.FLOAT32]
    assert "float32" in reasons[HALF]


def test_one_line_says_what_activations_are():
    assert Tensor(1, 1, 1, 4).dtype == Linear(1, 4, 1, 1).dtype == ACTIVATIONS


def test_half_the_bytes():
    assert 2 * Tensor(2, 3, 5, 8, HALF).bytes == Tensor(2, 3, 5, 8).bytes
    assert Tensor(2, 3, 5, 8, HALF).elements == Tensor(2, 3, 5, 8).elements


@pytest.mark.parametrize("name", list(PROFILES))
def test_twice_the_lanes(name):
    cpu = profile(name)
    assert cpu.vector_lanes(HALF) == 2 * cpu.vector_lanes()
    assert cpu.vector_width(64, HALF) == 2 * cpu.vector_width(64)
    assert cpu.panel_lanes(500, HALF) == 2 * cpu.panel_lanes(500)
    assert cpu.image_lanes(300, HALF) % cpu.vector_lanes(HALF) == 0
    assert vectors_of(Tensor(1, 2, 3, 64, HALF), cpu) * 2 == vectors_of(Tensor(1, 2, 3, 64), cpu)


def test_other_rates():
    assert line_elements(HALF) == 2 * line_elements(DType.FLOAT32)
    assert CPU.vector_lanes(HALF) == 2 * CPU.vector_lanes(DType.FLOAT32)


def refusing(dtype, cpu):
    """Return the families that have no kernel for a type on a processor."""
    return [f.name for f in FLOATS if f.refusal(Layer(LAYERS[f.name](dtype), 0.1), cpu)]


def test_permutations_of_half_the_elements_have_no_kernel():
    assert refusing(HALF, profile("sapphirerapids")) == ["sparse_row_linear"]


def test_the_matrix_unit_takes_half_precision_where_it_is():
    of_unit = ["amx_linear", "amx_conv2d"]
    assert refusing(DType.FLOAT32, profile("sapphirerapids")) == of_unit
    assert set(of_unit) <= set(refusing(HALF, CPU))


@pytest.mark.parametrize(
    "family",
    [f for f in FLOATS if f.name != "sparse_row_linear" and not f.name.startswith("amx")],
    ids=lambda family: family.name,
)
def test_layers_take_fewer_cycles(family):
    half, full = (Layer(LAYERS[family.name](d), 0.1) for d in (HALF, DType.FLOAT32))
    cycles = [family.cycles(layer, family.default(layer, CPU), CPU) for layer in (half, full)]
    assert 0.35 * cycles[1] < cycles[0] < 0.8 * cycles[1]


def test_k_blocks_hold_twice_the_channels():
    (family,) = (f for f in FAMILIES if f.name == "sparse_linear")
    half, full = (
        family.default(Layer(Linear(16, 128, 768, 6144, dtype), 0.1), CPU)
        for dtype in (HALF, DType.FLOAT32)
    )
    assert half.k_block == 2 * full.k_block


def test_plans():
    plan = ColumnPlan(32, 4)
    half, full = region(HALF), region(DType.FLOAT32)
    held = [scratch_bytes(r, stage_memory(r, plan)) for r in (half, full)]
    assert 2 * held[0] == held[1]
    cheap, dear = predict(half, plan, CPU), predict(full, plan, CPU)
    assert sum(cheap.bytes_moved) == pytest.approx(sum(dear.bytes_moved) / 2)
    assert cheap.seconds < 0.8 * dear.seconds
    tight = dataclasses.replace(CPU, l2_bytes=2 << 20)
    steps = [max(p.step_rows for p in promising_plans(r, tight)) for r in (half, full)]
    assert steps[0] > steps[1], "more rows of half the bytes stay in the same cache"
