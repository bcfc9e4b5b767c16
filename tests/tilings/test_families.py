"""Kernels of layers: which fit, and how the records hold them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tvm_sparse.cpu.profile import profile
from tvm_sparse.formats.sparse import SparseConvTiling, SparseTiling
from tvm_sparse.records import file
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.records.file import Record, Records
from tvm_sparse.records.keys import key_on, layer_key
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.choice import DenseTiling
from tvm_sparse.tilings.families import default_kernel, from_fields, to_fields
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.sparse_conv2d import DenseConvTiling, DepthwiseTiling

CPU = profile("haswell")
CONV = Conv2d(1, 16, 8, 8, 16, (3, 3), padding=(1, 1, 1, 1), lanes_in=8, lanes_out=8)
LINEAR = Layer(Linear(4, 16, 64, 48), 0.1)
LAYERS = {
    "linear": LINEAR,
    "conv2d": Layer(CONV, 0.1),
    "grouped": Layer(replace(CONV, groups=4), 0.1),
    "depthwise": Layer(replace(CONV, groups=16), 1.0),
}
TILINGS = [
    SparseTiling(4, 16, rows=2),
    SparseConvTiling(4, 8, rows=2, row_block=4, shifted=True),
    DenseTiling(8, 2),
    DenseConvTiling(4, 1, 2, 8, 8, 1),
    DepthwiseTiling(4, 1, 8, 8, 4),
]
FITTING = {"linear": {0, 2}, "conv2d": {1, 3}, "grouped": {3}, "depthwise": {4}}


@pytest.mark.parametrize("tiling", TILINGS, ids=lambda tiling: type(tiling).__name__)
def test_kernels_survive_the_records(tiling):
    assert from_fields(json.loads(json.dumps(to_fields(tiling)))) == tiling


@pytest.mark.parametrize("name", LAYERS)
def test_which_kernels_fit_a_layer(name):
    fitting = {i for i, tiling in enumerate(TILINGS) if LAYERS[name].fits(tiling)}
    assert fitting == FITTING[name]
    assert LAYERS[name].fits(default_kernel(LAYERS[name], CPU))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kernel": "linear"},
        {"kernel": "linear", "channels": 8, "vectors": 0},
        {"kernel": "linear", "channels": "many", "vectors": 2},
        {"kernel": "fast", "channels": 8, "vectors": 2},
        {**to_fields(TILINGS[1]), "row_block": 3},
        {**to_fields(TILINGS[0]), "colour": 1},
    ],
)
def test_fields_that_are_no_kernel(fields):
    assert from_fields(fields) is None


def test_keys_know_structure_and_density_but_no_weights():
    assert layer_key(LINEAR) == layer_key(replace(LINEAR, density=0.101))
    assert layer_key(LINEAR) != layer_key(replace(LINEAR, density=0.2))
    assert layer_key(LINEAR) != layer_key(replace(LINEAR, problem=Linear(8, 16, 64, 48)))
    assert layer_key(LINEAR).startswith("linear 48 > 64 @ 4x16 #")


def recorded(tiling):
    key = key_on(layer_key(LINEAR), CPU)
    return RecordedPlans(Records([Record(key, to_fields(tiling), (1.0,), "turn")]), "records")


def test_a_record_gives_the_kernel():
    plans = recorded(TILINGS[0])
    assert plans.kernels_on(CPU)(LINEAR) == TILINGS[0]
    assert plans.kernels_on(CPU)(replace(LINEAR, problem=Linear(8, 16, 64, 48))) is None
    assert plans.kernels_on(replace(CPU, cores=CPU.cores + 1))(LINEAR) is None


@pytest.mark.parametrize(("seconds", "chosen"), [(0.97, 0), (0.9, 2)])
def test_a_kernel_must_gain_more_than_its_columns_could_lose(seconds, chosen):
    key = key_on(layer_key(LINEAR), CPU)
    turn = [
        Record(key, to_fields(tiling), (time,) * 5, "turn", at=float(i))
        for i, (tiling, time) in enumerate(zip(TILINGS[:3:2], (1.0, seconds), strict=True))
    ]
    assert RecordedPlans(Records(turn)).kernels_on(CPU)(LINEAR) == TILINGS[chosen]


@pytest.mark.parametrize("tiling", [TILINGS[3], replace(TILINGS[0], chunks=7)])
def test_a_recorded_kernel_that_does_not_fit_is_not_used(tiling):
    assert recorded(tiling).kernels_on(CPU)(LINEAR) is None


@pytest.mark.parametrize(
    "fields",
    [
        {**to_fields(TILINGS[0]), "colour": 1},
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
    plans = [*map(to_fields, known), {"lanes": 16}, {"choices": "cost model"}, fields]
    file.append(path, [Record(key, p, (9.0 - i,), str(i)) for i, p in enumerate(plans)])
    assert len(RecordedPlans.read(path).records) == 4
    (message,) = [r.getMessage() for r in caplog.records]
    assert message == (
        f"{path}: line 5 is of a plan that this tvm-sparse does not know; "
        "the other 4 records are used"
    )
