"""Kernels of layers: which fit, and how the records hold them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.cpu.profile import profile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.joined import JoinedLinearTiling, JoinedTiling
from tvm_sparse.formats.sparse import SparseConvTiling, SparseTiling
from tvm_sparse.records import file
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.records.file import Records
from tvm_sparse.records.keys import key_on, layer_key
from tvm_sparse.records.record import Record
from tvm_sparse.sizes.block_linear import BlockLinear, Form
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.amx_conv2d import AmxConv2dTiling
from tvm_sparse.tilings.amx_linear import AmxLinearTiling
from tvm_sparse.tilings.block_rows import (
    BlockRowTiling,
    SparseBitmapTiling,
    SparsePairTiling,
    SparseWindowTiling,
)
from tvm_sparse.tilings.conv2d import Conv2dTiling
from tvm_sparse.tilings.depthwise_conv2d import DepthwiseConv2dTiling
from tvm_sparse.tilings.families import (
    FAMILIES,
    default_kernel,
    families_of,
    family_of,
    fits,
    kernel_from_fields,
    kernel_to_fields,
)
from tvm_sparse.tilings.flat_conv2d import FlatConv2dTiling
from tvm_sparse.tilings.int8_conv2d import AmxInt8Conv2dTiling, Int8Conv2dTiling
from tvm_sparse.tilings.int8_linear import AmxInt8LinearTiling, Int8LinearTiling
from tvm_sparse.tilings.int8_rows import Int8RowTiling
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LinearTiling
from tvm_sparse.tilings.row_linear import RowTiling, SparseRowTiling
from tvm_sparse.tilings.sparse_int8 import SparseInt8Conv2dTiling, SparseInt8LinearTiling

CPU = profile("skylake-avx512")
EXPANDING = profile("icelake-server")
"""A processor that has the instructions of the kernel of bitmaps, too."""
CONV = Conv2d(1, 16, 8, 8, 16, (3, 3), padding=(1, 1, 1, 1), lanes_in=8, lanes_out=8)
LINEAR = Layer(Linear(4, 16, 64, 48), 0.1)
LAYERS = {
    "linear": LINEAR,
    "rows": Layer(Linear(4, 1, 64, 48), 0.1),
    "conv2d": Layer(CONV, 0.1),
    "grouped": Layer(replace(CONV, groups=4), 0.1),
    "depthwise": Layer(replace(CONV, groups=16), 1.0),
    "narrow linear": Layer(Linear(4, 8, 64, 48), 0.1),
    "narrow conv2d": Layer(replace(CONV, dtype=DType.FLOAT16), 0.1),
    "quantized linear": replace(LINEAR, is_quantized=True),
    "quantized conv2d": Layer(CONV, 0.1, is_quantized=True),
    "quantized rows": Layer(Linear(4, 1, 64, 48), 0.1, is_quantized=True, is_dynamic=True),
    "few bits": Layer(BlockLinear(4, 64, 48, 4, 16), 0.1),
    "pairs": Layer(BlockLinear(4, 64, 48, 4, 16, form=Form.PAIRS), 0.5),
    "windows": Layer(BlockLinear(4, 64, 48, 4, 16, form=Form.WINDOWS, steps=40), 0.1),
    "bitmaps": Layer(BlockLinear(4, 64, 48, 4, 16, form=Form.BITMAPS, steps=400), 0.1),
}
TILINGS = [
    SparseTiling(4, 16, rows=2),
    SparseRowTiling(16, 2, 4, 1),
    SparseConvTiling(4, 8, rows=2, row_block=4, shifted=True),
    LinearTiling(8, 2),
    AmxLinearTiling(64),
    RowTiling(16, 4, 4, 2),
    BlockRowTiling(4, 2),
    SparsePairTiling(4, 2),
    SparseWindowTiling(4, 2),
    SparseBitmapTiling(4, 2),
    Conv2dTiling(4, 1, 2, 8, 8, 1),
    FlatConv2dTiling(4, 2, 16, 8, 1),
    DepthwiseConv2dTiling(4, 1, 8, 8, 4),
    JoinedLinearTiling(4, 16, rows=4, width=16),
    JoinedTiling(4, 8, rows=8, width=32),
    AmxConv2dTiling(64),
    Int8LinearTiling(12),
    AmxInt8LinearTiling(128),
    Int8Conv2dTiling(12),
    AmxInt8Conv2dTiling(128),
    SparseInt8LinearTiling(6, 4),
    SparseInt8Conv2dTiling(6, 4),
    Int8RowTiling(16, 4, 4, 2),
]
FEW_BITS = ("few bits", "pairs", "windows", "bitmaps")
FITTING = {
    "linear": {0, 3},
    "rows": {1, 5},
    "conv2d": {2, 10, 11, 14},
    "grouped": {10, 11},
    "depthwise": {12},
    "narrow linear": {0, 3, 13},
    "narrow conv2d": {2, 10, 14},
    "quantized linear": {0, 3, 16, 20},
    "quantized conv2d": {2, 10, 11, 14, 18, 21},
    "quantized rows": {1, 5, 22},
    "few bits": {6},
    "pairs": {7},
    "windows": {8},
    "bitmaps": {9},
}
TRIED = next(tiling for tiling in family_of(TILINGS[0]).tilings(LINEAR, CPU) if tiling.rows == 2)
SIZES = st.integers(1, 1 << 16)


def any_tiling(family):
    """Return a strategy of tilings that are of one family, of which most suit no layer."""
    kinds = get_type_hints(family.tiling)
    sizes = {name: st.booleans() if kind is bool else SIZES for name, kind in kinds.items()}
    if {"rows", "row_block"} <= set(kinds):  # whole tiles, which sparse convolutions insist on
        sizes |= {"rows": st.integers(1, 8), "row_block": st.integers(1, 99).map(lambda n: n * 840)}
    return st.builds(family.tiling, **sizes)


@given(tiling=st.one_of(*map(any_tiling, FAMILIES)))
def test_kernels_survive_the_records(tiling):
    assert kernel_from_fields(json.loads(json.dumps(kernel_to_fields(tiling)))) == tiling


def test_names_of_families_in_records_do_not_change():
    names = [family.name for family in FAMILIES]
    assert names == [
        *("sparse_linear", "sparse_row_linear", "sparse_conv2d"),
        *("linear", "amx_linear", "row_linear"),
        *("block_row_linear", "sparse_pair_row_linear", "sparse_window_row_linear"),
        "sparse_bitmap_row_linear",
        *("conv2d", "flat_conv2d", "depthwise_conv2d"),
        *("joined_linear", "joined_conv2d", "amx_conv2d"),
        *("int8_linear", "amx_int8_linear", "int8_conv2d", "amx_int8_conv2d"),
        *("sparse_int8_linear", "sparse_int8_conv2d", "int8_row_linear"),
    ]
    assert [kernel_to_fields(tiling)["kernel"] for tiling in TILINGS] == names
    assert [family_of(tiling) for tiling in TILINGS] == list(FAMILIES)


def test_fields_of_kernels_in_records_do_not_change():
    of_rows = ["kernel", "width", "vectors", "rows", "jobs"]
    packed = ["kernel", "group", "k_block", "chunks", "window", "rows"]
    joined = [*packed, "width", "vectors", "shifted"]
    assert [list(kernel_to_fields(tiling)) for tiling in TILINGS] == [
        packed,
        of_rows,
        [*packed, "width", "row_block", "shifted", "vectors"],
        ["kernel", "channels", "vectors"],
        ["kernel", "inputs"],
        of_rows,
        *[["kernel", "rows", "jobs"]] * 4,
        ["kernel", "channels", "vectors", "rows", "width", "row_block", "chunks"],
        ["kernel", "channels", "vectors", "width", "row_block", "chunks"],
        ["kernel", "rows", "vectors", "width", "row_block", "channels"],
        joined,
        joined,
        ["kernel", "inputs"],
        *(["kernel", "channels"], ["kernel", "inputs"]),
        *(["kernel", "channels"], ["kernel", "inputs"]),
        *[["kernel", "group", "columns"]] * 2,
        of_rows,
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_which_kernels_fit_a_layer(name):
    layer, cpu = LAYERS[name], EXPANDING if name == "bitmaps" else CPU
    fitting = {i for i, tiling in enumerate(TILINGS) if fits(layer, tiling, cpu)}
    assert fitting == FITTING[name]
    if name not in FEW_BITS:  # their families are compared by `best_form`
        assert fits(layer, default_kernel(layer, CPU), CPU)


@pytest.mark.parametrize("name", LAYERS)
def test_a_family_refuses_a_layer_with_a_reason_or_tiles_it(name):
    layer, cpu = LAYERS[name], EXPANDING if name == "bitmaps" else CPU
    computing = families_of(layer, cpu)
    for family in FAMILIES:
        assert bool(family.refusal(layer, cpu)) == (family not in computing)
    for family in computing:
        assert family.fits(layer, family.default(layer, cpu), cpu)
        assert all(family.fits(layer, tiling, cpu) for tiling in family.tilings(layer, cpu))


def test_layers_of_other_sizes_are_refused_by_name():
    refusal = family_of(TILINGS[3]).refusal(LAYERS["conv2d"], CPU)
    assert refusal == "linear does not compute layers of Conv2d sizes"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kernel": "linear"},
        {"kernel": "linear", "channels": 8, "vectors": 0},
        {"kernel": "linear", "channels": "many", "vectors": 2},
        {"kernel": "fast", "channels": 8, "vectors": 2},
        {**kernel_to_fields(TILINGS[1]), "row_block": 3},
        {**kernel_to_fields(TILINGS[0]), "colour": 1},
    ],
)
def test_fields_that_are_no_kernel(fields):
    assert kernel_from_fields(fields) is None


def test_keys_know_structure_and_density_but_no_weights():
    assert layer_key(LINEAR) == layer_key(replace(LINEAR, density=0.101))
    assert layer_key(LINEAR) != layer_key(replace(LINEAR, density=0.2))
    assert layer_key(LINEAR) != layer_key(replace(LINEAR, problem=Linear(8, 16, 64, 48)))
    assert layer_key(LINEAR).startswith("linear 48 > 64 @ 4x16 #")


def recorded(tiling):
    key = key_on(layer_key(LINEAR), CPU)
    return RecordedPlans(
        Records([Record(key, kernel_to_fields(tiling), (1.0,), "turn")]), "records"
    )


def test_a_record_gives_the_kernel():
    plans = recorded(TRIED)
    assert plans.kernels_on(CPU)(LINEAR) == TRIED
    assert plans.kernels_on(CPU)(replace(LINEAR, problem=Linear(8, 16, 64, 48))) is None
    assert plans.kernels_on(replace(CPU, cores=CPU.cores + 1))(LINEAR) is None


@pytest.mark.parametrize(("seconds", "chosen"), [(0.97, 0), (0.9, 1)])
def test_a_kernel_must_gain_more_than_its_columns_could_lose(seconds, chosen):
    key = key_on(layer_key(LINEAR), CPU)
    tilings = TRIED, default_kernel(LINEAR, CPU)
    turn = [
        Record(key, kernel_to_fields(tiling), (time,) * 5, "turn", at=float(i))
        for i, (tiling, time) in enumerate(zip(tilings, (1.0, seconds), strict=True))
    ]
    assert RecordedPlans(Records(turn)).kernels_on(CPU)(LINEAR) == tilings[chosen]


@pytest.mark.parametrize(
    "tiling",
    [
        TILINGS[5],
        replace(TRIED, chunks=7),
        *(replace(TRIED, **{name: 1 << 40}) for name in ("group", "k_block", "window", "rows")),
        LinearTiling(8, 10**30),
    ],
)
def test_a_recorded_kernel_that_is_never_tried_is_not_used(tiling):
    assert recorded(tiling).kernels_on(CPU)(LINEAR) is None


@pytest.mark.parametrize(
    "fields",
    [
        {**kernel_to_fields(TILINGS[0]), "colour": 1},
        {"kernel": "fast"},
        {"lanes": "many"},
        {"choices": 1},
        {"column_rows": 0},
        {},
    ],
)
def test_a_plan_with_unknown_fields_is_left_out_with_a_warning(fields, tmp_path, caplog):
    path, key = tmp_path / "records.jsonl", key_on(layer_key(LINEAR), CPU)
    known = [TILINGS[0], replace(TILINGS[0], rows=1)]
    plans = [*map(kernel_to_fields, known), {"lanes": 16}, {"choices": "cost model"}, fields]
    file.append(path, [Record(key, p, (9.0 - i,), str(i)) for i, p in enumerate(plans)])
    assert len(RecordedPlans.read(path).records) == 4
    (message,) = [r.getMessage() for r in caplog.records]
    assert message == (
        f"{path}: line 5 is of a plan that this tvm-sparse does not know; "
        "the other 4 records are used"
    )
