"""Tuning of a small network: from the model to the records, and back into a library."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx.helper import make_node

from tvm_sparse import compiler
from tvm_sparse.cli import main
from tvm_sparse.columns.plans import ColumnPlan, Stops
from tvm_sparse.columns.shapes import part
from tvm_sparse.cpu.precision import processor
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.errors import TuningError
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.regions.region_planner import LEAST_GAIN
from tvm_sparse.records import file
from tvm_sparse.records.best import RecordedPlans, plan_from_fields, plan_to_fields
from tvm_sparse.records.file import Records
from tvm_sparse.records.keys import key_of, region_key, target_key
from tvm_sparse.records.record import Record
from tvm_sparse.report.tuned import check_plot, plot, summary, table, to_json
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_mlp, write_onnx
from tvm_sparse.tuning import tune
from tvm_sparse.tuning.regions import form_regions

SHAPES = {"x": (1, 32, 160, 160)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Three convolutions of 3x3, all alike, nine in ten weights zero."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": pruned(rng, (32, 32, 3, 3), 0.1) for i in range(3)}
    names = ["x", "a", "b", "y"]
    nodes = [
        make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1, 1, 1, 1]) for i in range(3)
    ]
    path = tmp_path_factory.mktemp("tuning") / "convolutions.onnx"
    return write_onnx(path, nodes, {"x": SHAPES["x"]}, ["y"], weights)


@pytest.fixture(scope="module")
def tuned(model, tmp_path_factory):
    """Tune once, with few trials; returns the file of records and the result."""
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    return path, tune.tune(model, threads=1, trials_per_region=3, records=path)


def test_every_trial_is_recorded(tuned):
    path, regions = tuned
    found = file.read(path)
    assert {region.kind for region in regions} == {"layers", "regions", "model"}
    for region in regions:
        assert region.outcome.failures == ()
        plans = {tuple(r.plan.values()) for r in found.of(region.outcome.task.key)}
        assert plans >= {tuple(plan.values()) for plan in region.outcome.task.plans}
        assert len(plans) == region.outcome.trials + 1
        assert region.outcome.gain >= 1


def test_compile_uses_the_records(model, shape):
    plan = ColumnPlan(shape.height, 5, "carry")
    plans = RecordedPlans(Records(turn_of(shape, plan)), "my records")
    _, used = compiled(model, plans)
    assert (used.by_records, used.by_cost_model) == (1, 0)
    assert str(used) == "tensor columns planned: 1 by my records"


def compiled(model, plans, shapes=None):
    """Return the engine of a model, and what was used of the records."""
    engine = compiler.compile(model, shapes, threads=1, records=plans)
    return engine, engine.report.records


def test_compile_uses_the_kernels_of_layers(model, tuned):
    path, parts = tuned
    known = file.read(path)
    keys = [part.outcome.task.key for part in parts if part.kind == "layers"]
    plans = RecordedPlans(Records([r for key in keys for r in known.of(key)]), "my records")
    engine, used = compiled(model, plans)
    assert str(used).endswith("; kernels of 1 kind of layer by my records")
    x = np.random.default_rng(0).standard_normal(SHAPES["x"], "float32")
    expected = onnxruntime_outputs(model, {"x": x})["y"]
    actual = engine.run({"x": x})["y"]
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


def region_of(tuned):
    """Return a region of the model."""
    return next(part for part in tuned[1] if part.shape)


@pytest.fixture(scope="module")
def shape(model):
    """Return the region of the model if its kernels are the compiler's, none of them measured."""
    cpu = processor("native", 1)
    panels = pipeline.front(import_module(model).mod, cpu).mod
    shapes = list(form_regions(panels, cpu, LEAST_GAIN)[1].values())
    if not shapes:
        pytest.skip("the cost model of this CPU runs these layers one by one")
    return shapes[0]


def turn_of(shape, plan):
    """Return a turn in which a plan was much faster than the operators one by one."""
    key = key_of(shape, processor("native", 1))
    apart = plan_to_fields(Stops.everywhere(len(shape.stages)))
    slow = Record(key, apart, (2.0,), "a", at=1.0)
    return [slow, Record(key, plan_to_fields(plan), (1.0,), "a", at=2.0)]


@pytest.mark.parametrize("choices, is_refused", [("cost model", True), ("records 12", False)])
def test_a_model_that_is_faster_without_records(model, tuned, choices, is_refused):
    path, (*_, whole) = tuned
    assert whole.kind == "model"
    verdict = Record(whole.outcome.task.key, {"choices": choices}, (1e-9,), "last")
    plans = RecordedPlans(file.read(path), str(path))
    plans.records.add(verdict)
    _, used = compiled(model, plans)
    assert used.is_refused == is_refused
    assert bool(used.layers) != is_refused
    assert ("as a whole faster than with" in str(used)) == is_refused


def test_a_record_decides_the_plan(model, shape, monkeypatch):
    """A plan that the cost model would not choose reaches the schedule."""
    from tvm_sparse.passes.lower import lower_regions

    plan = ColumnPlan(shape.height, 5, "recompute")
    measured = turn_of(shape, plan)
    used = []
    schedule = lower_regions.tensor_column

    def note(region, plan, *others):
        used.append(plan)
        return schedule(region, plan, *others)

    monkeypatch.setattr(lower_regions, "tensor_column", note)
    compiler.compile(model, threads=1, records=RecordedPlans(Records(measured)))
    assert plan.fitted(shape) in used


def test_recorded_stops_cut_a_region(model, shape):
    count = len(shape.stages)
    for stops in (Stops.everywhere(count), Stops((1,))):
        measured = turn_of(shape, stops)
        engine = compiler.compile(model, threads=1, records=RecordedPlans(Records(measured)))
        x = np.random.default_rng(0).standard_normal(SHAPES["x"], "float32")
        expected = onnxruntime_outputs(model, {"x": x})["y"]
        actual = engine.run({"x": x})["y"]
        np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


def test_every_kind_of_plan_computes_the_same(tuned):
    """The workers compare results: a difference would be a failure."""
    tried = [record.plan for region in tuned[1] for record in region.outcome.records]
    assert {"stops_before", "column_rows"} <= {name for plan in tried for name in plan}


def test_parts_of_a_region(tuned):
    shape = region_of(tuned).shape
    count = len(shape.stages)
    assert part(shape, 0, count) == shape
    for stage in range(1, count):
        front, back = part(shape, 0, stage), part(shape, stage, count)
        assert front.stages + back.stages != shape.stages
        assert [s.key for s in front.stages + back.stages] == [s.key for s in shape.stages]
        assert front.stages[-1].tensor in back.inputs
        assert stage - 1 in front.outputs


@pytest.mark.parametrize("target, threads", [("native", 1), ("native", 2), ("haswell", 1)])
def test_records_serve_their_own_processor_and_threads(tuned, target, threads):
    path, region = tuned[0], region_of(tuned)
    plans = RecordedPlans.read(path)
    found = plans.plans_on(processor(target, threads))(region.shape)
    if (target, threads) == ("native", 1):
        assert found.plan == plan_from_fields(region.outcome.best.plan)
        assert found.share > 0  # of the time that its operators take one by one: above 1, if slower
    else:
        assert found is None


def test_the_users_records(model, tuned, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert len(RecordedPlans.read(None).records) == 0
    file.append(file.default_path(), file.read(tuned[0]).of(region_of(tuned).outcome.task.key))
    assert RecordedPlans.read(None).records.best(region_of(tuned).outcome.task.key) is not None


def test_lanes_of_tokens(tmp_path):
    """From the trials to the library, and nothing is tried again."""
    path = tmp_path / "records.jsonl"
    model = write_mlp(tmp_path / "mlp.onnx")
    shapes = {"x": (2, 96, 32)}
    first, *others = tune.tune(model, shapes, threads=1, trials_per_region=1, records=path)
    assert first.kind == "lanes"
    assert first.outcome.trials == 1
    assert "layers" in {other.kind for other in others}
    size = path.stat().st_size
    tune.tune(model, shapes, threads=1, trials_per_region=1, records=path)
    assert path.stat().st_size == size
    _, lanes = (plan["lanes"] for plan in first.outcome.task.plans)
    fast = Record(first.outcome.task.key, {"lanes": lanes}, (1e-9,), "turn")
    plans = RecordedPlans(Records([fast]), "records")
    engine, used = compiled(model, plans, shapes)
    assert str(used).endswith(f"{lanes} lanes by records")
    x = np.random.default_rng(0).standard_normal(shapes["x"], "float32")
    (expected,) = onnxruntime_outputs(model, {"x": x}).values()
    (actual,) = engine.run({"x": x}).values()
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


def test_another_target_needs_a_device(model):
    with pytest.raises(TuningError, match=r"rpi4 is not this machine .*--tracker"):
        tune.tune(model, target="rpi4")


def test_keys_know_structure_and_processor(tuned):
    region = region_of(tuned).shape
    here = native()
    assert region_key(region) == region_key(region)
    names = [stage.name for stage in region.stages]
    assert names[-1] in region_key(region)
    assert target_key(here) != target_key(profile("rpi4"))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stops_before": ""},
        {"stops_before": "2,1"},
        {"stops_before": "0,1"},
        {"stops_before": 1},
        {"column_rows": 4, "step_rows": 8, "overlap": "carry"},
        {"column_rows": 0, "step_rows": 0, "overlap": "carry"},
        {"column_rows": "4", "step_rows": 2, "overlap": "carry"},
        {"column_rows": 4, "step_rows": 2, "overlap": "keep"},
    ],
)
def test_fields_that_are_no_plan(fields):
    assert plan_from_fields(fields) is None


@pytest.mark.parametrize("plan", [ColumnPlan(8, 2, "recompute"), Stops((1,)), Stops((2, 5))])
def test_plans_survive_the_records(plan):
    assert plan_from_fields(json.loads(json.dumps(dict(plan_to_fields(plan))))) == plan


def test_command_line(model, tuned, capfd, tmp_path):
    path, _ = tuned
    common = [str(model), "--threads", "1", "--records", str(path)]
    plot = tmp_path / "p.png"
    assert main.main(["tune", *common, "--trials", "3", "--plot", str(plot)]) == 0
    assert "; regions: " in capfd.readouterr().out
    assert plot.exists()
    assert main.main(["tune", *common, "--trials", "3", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)) >= 2
    assert main.main(["compile", *common, "-o", str(tmp_path / "a.so")]) == 0
    assert str(path) in capfd.readouterr().out
    common[-1] = "off"
    assert main.main(["compile", *common, "-o", str(tmp_path / "a.so"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["regions"]["by_records"] == 0


def test_report(tuned, tmp_path):
    path, regions = tuned
    assert table(regions).row_count == len(regions)
    assert "before" in summary(regions, path)
    found = {part["kind"]: part for part in to_json(regions)}
    layer, region = found["layers"], found["regions"]
    assert layer["default"]["kernel"] == "sparse_conv2d"
    one_by_one, columns = {"stops_before"}, {"column_rows", "step_rows", "overlap"}
    assert region["default"].keys() in (one_by_one, columns)


def test_plot(tuned, tmp_path):
    drawing = tmp_path / "tuning.png"
    check_plot(drawing)
    plot(tuned[1], drawing, processor("native", 1))
    assert drawing.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [drawing]
