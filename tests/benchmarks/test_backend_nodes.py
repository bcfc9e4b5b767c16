"""ONNX's own tests of single nodes: each is right, or refused; none is wrong.

The names of the tests that are right are kept in data/ (see benchmarks/backend_nodes.py); a tenth
of all tests is run again here.
"""

import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tvm_sparse.frontends.element_types import ELEMENT_TYPES

DATA = Path(__file__).parents[1] / "data" / "backend_nodes.json"
DOCS = Path(__file__).parents[2] / "docs" / "compatibility.md"
EVERY = 10


@pytest.fixture(scope="module")
def backend_nodes():
    return importlib.import_module("backend_nodes")


@pytest.fixture(scope="module")
def record():
    return json.loads(DATA.read_text())


def test_most_are_right(record):
    """Nobody notices at run time what is refused; so a lost one is no error, but many are."""
    assert len(record["tvm_sparse"]) > len(record["onnxruntime"]) * 0.95
    assert set(record["through"]) < set(record["tvm_sparse"])


def test_what_onnxruntime_runs_is_right(backend_nodes, record):
    """Others have inputs or outputs that are no arrays, or arrays of elements like strings."""
    known = backend_nodes.cases()
    lost = set(record["onnxruntime"]).intersection(known) - set(record["tvm_sparse"])
    assert not {name for name in lost if has_arrays_only(known[name].model)}


def has_arrays_only(model):
    values = [*model.graph.input, *model.graph.output]
    return all(value.type.tensor_type.elem_type in ELEMENT_TYPES for value in values)


def test_the_docs_show_the_record(backend_nodes, record):
    if record["onnx"] == onnx.__version__:
        assert backend_nodes.table(record) in DOCS.read_text()


ONCE_WRONG = [
    "test_attention_4d_fp16",
    "test_attention_causal_boolmask_nan_robustness_expanded",
    "test_attention_local_window_gqa_rank4_mask_expanded",
    "test_batchnorm_example_training_mode",
    "test_bitshift_left_int32_shift_ge_width",
    "test_blackmanwindow",
    "test_cast_FLOAT16_to_INT4",
    "test_castlike_FLOAT16_to_DOUBLE",
    "test_center_crop_pad_crop_and_pad_expanded",
    "test_convtranspose_output_shape",
    "test_dropout_default_mask",
    "test_expand_dim_changed",
    "test_if_seq",
    "test_isinf_negative",
    "test_layer_normalization_2d_axis1",
    "test_mod_float_edge_cases_fmod_0_float32",
    "test_nonmaxsuppression_single_box",
    "test_pow_types_int32_int32",
    "test_rms_normalization_2d_axis0",
    "test_reduce_l1_empty_set",
    "test_roialign_mode_max",
    "test_scan_sum",
    "test_spacetodepth_crd_mode_example",
]
"""One test of each kind whose outputs were wrong, or whose compilation failed, without a word."""


def test_none_of_a_sample_is_wrong(backend_nodes, record):
    known = backend_nodes.cases()
    names = sorted({*list(known)[::EVERY], *(name for name in ONCE_WRONG if name in known)})
    assert len(names) > 150
    worker = backend_nodes.Worker(backend_nodes.OURS)
    try:
        outcomes = {name: worker(name) for name in names}
    finally:
        worker.close()
    assert not {
        n: outcome for n, outcome in outcomes.items() if not backend_nodes.is_accepted(outcome)
    }
    right = [name for name, outcome in outcomes.items() if outcome in backend_nodes.RIGHT_KINDS]
    assert len(right) > len(names) // 2
    if record["onnx"] == onnx.__version__:
        lost = set(record["onnxruntime"]).intersection(outcomes) - set(right)
        assert not {name for name in lost if has_arrays_only(known[name].model)}


@pytest.mark.parametrize(
    "outcome, accepted",
    [
        ("right", True),
        ("ModelError: node 'x' (Loop) cannot be imported", True),
        ("right through ONNX Runtime", True),
        ("as ONNX Runtime: wrong: other values", True),
        ("failed: node 'x' (Tan): compiling it failed: no kernel", False),
        ("wrong: other values", False),
        ("crash: the process ended", False),
        ("timeout: after 60 s", False),
        ("InternalError: Check failed", False),
    ],
)
def test_only_right_outputs_and_clear_errors_are_accepted(backend_nodes, outcome, accepted):
    assert backend_nodes.is_accepted(outcome) is accepted


def test_wrong_outputs_are_noticed(backend_nodes):
    y = np.array([1.0, np.nan], np.float32)
    compare = backend_nodes.compare
    assert compare([y], [y.copy()], 1e-3, 1e-7) == backend_nodes.RIGHT
    assert compare([y + 1], [y], 1e-3, 1e-7) == "wrong: other values"
    assert compare([y.astype("float64")], [y], 1e-3, 1e-7).startswith("wrong: float64")
    assert compare([], [y], 1e-3, 1e-7) == "wrong: 0 outputs, expected 1"


def test_a_crash_is_an_outcome_and_the_next_test_runs(backend_nodes):
    worker = backend_nodes.Worker(backend_nodes.OURS)
    try:
        assert worker("test_abs") == backend_nodes.RIGHT
        worker._process.kill()
        worker._process.join()
        assert worker("test_abs").startswith("crash")
        assert worker("test_abs") == backend_nodes.RIGHT
    finally:
        worker.close()


def test_the_table_counts_by_domain(backend_nodes):
    names = [name for name in backend_nodes.cases("test_celu*") if "expanded" not in name]
    engines = {"tvm": "wrong: other values", "onnxruntime": backend_nodes.RIGHT}
    outcomes = {name: engines | {"tvm_sparse": backend_nodes.THROUGH} for name in names}
    record = backend_nodes.record_of(outcomes)
    (row,) = (line for line in backend_nodes.table(record).splitlines() if "| ai.onnx |" in line)
    counts = f"| 0 | {len(names)} | {len(names)} | {len(names)} |"
    assert row.endswith(counts)
    assert record["onnx"] == onnx.__version__ and record["cases"] == len(names)


def test_outcomes_are_kept_in_a_file(backend_nodes, tmp_path):
    path = tmp_path / "outcomes.jsonl"
    path.write_text(json.dumps(["test_abs", "tvm_sparse", "kept"]) + "\n")
    found = backend_nodes.run_all(["test_abs", "test_add"], ["tvm_sparse"], path)
    right = {"tvm_sparse": backend_nodes.RIGHT}
    assert found == {"test_abs": {"tvm_sparse": "kept"}, "test_add": right}
    assert [json.loads(line)[0] for line in path.read_text().splitlines()] == [
        "test_abs",
        "test_add",
    ]
