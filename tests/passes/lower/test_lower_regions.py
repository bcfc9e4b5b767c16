from __future__ import annotations

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax
from tvm_ffi import structural_equal

import tvm_sparse
from tvm_sparse.bench.arrays import output_error, random_inputs
from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.lower import lower_regions
from tvm_sparse.passes.lower.lower_regions import LowerRegions
from tvm_sparse.passes.regions.form_regions import REGIONS
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.direct_depthwise import depthwise_stage
from tvm_sparse.schedules.tensor_column import Region, tensor_column
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.testing.kernels import losing_regions
from tvm_sparse.testing.models import dataflow, onnxruntime_outputs, write_onnx
from tvm_sparse.zoo import recipes

CPU = native()
PANELS = (24, 8, 16)
CONV = Conv2d(
    *(1, 8, 24, 14, 8, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 8), lanes_in=16, lanes_out=16
)
WEIGHTS = [relax.const(np.full((8, 1, 3, 3), value, "float32")) for value in (0.1, 0.2)]


def two_convolutions(emit, x):
    y = emit(panel.depthwise_conv2d(x, WEIGHTS[0], CONV))
    return emit(panel.with_epilogue(panel.depthwise_conv2d(y, WEIGHTS[1], CONV), residual=x))


def lowered(body, columns=6, overlap="carry"):
    return LowerRegions(CPU)(losing_regions(CPU, columns, overlap)(dataflow(body, PANELS)))


def prim_funcs(mod):
    return [func for _, func in mod.functions_items() if isinstance(func, tvm.tirx.PrimFunc)]


def test_a_region_becomes_one_function():
    formed = losing_regions(CPU, 6, "carry")(dataflow(two_convolutions, PANELS))
    (report,) = formed.attrs[REGIONS]
    plan = ColumnPlan(int(report["column_rows"]), int(report["step_rows"]), report["overlap"])
    after = LowerRegions(CPU)(formed)

    stages = (
        depthwise_stage(CONV, Epilogue(), CPU),
        depthwise_stage(CONV, Epilogue(residual=True), CPU),
    )
    region = Region(stages, ({"x": -1}, {"x": 0, "residual": -1}), (CONV.input,), (1,))
    builder = relax.BlockBuilder()
    x = relax.Var("x0", relax.TensorType(PANELS, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            func = builder.add_func(tensor_column(region, plan), "tensor_column_0")
            y = builder.emit(relax.call_tir(func, [x, *WEIGHTS], x.ty))
            result = builder.emit_output(y)
        builder.emit_func_output(result)
    tvm.ir.assert_structural_equal(after.without_attr(REGIONS), builder.get())


def test_regions_of_one_structure_and_plan_share_a_function():
    def body(emit, x):
        y = emit(relax.op.sin(two_convolutions(emit, x)))  # no stage
        return two_convolutions(emit, y)

    formed = losing_regions(CPU, 6, "carry")(dataflow(body, PANELS))
    assert [len(report["layers"]) for report in formed.attrs[REGIONS]] == [2, 2]
    assert len(prim_funcs(LowerRegions(CPU)(formed))) == 1


def test_regions_that_differ_in_weights_are_emitted_once(monkeypatch):
    emitted = []

    def emit_column(*arguments):
        emitted.append(arguments)
        return tensor_column(*arguments)

    monkeypatch.setattr(lower_regions, "tensor_column", emit_column)

    def body(emit, x):
        for bounds in ((0, 3), (0, 3), (0, 4)):
            weight = relax.const(rng.standard_normal((8, 1, 3, 3)).astype("float32"))
            x = emit(panel.depthwise_conv2d(x, weight, CONV))
            x = emit(relax.op.sin(emit(relax.op.clip(x, *bounds))))  # a sine is no stage
        return x

    rng = np.random.default_rng(0)
    after = lowered(body)
    columns = [name for name, _ in after.functions_items() if "column" in name.name_hint]
    assert len(emitted) == len(columns) == 2, "the bounds of a clip are part of the code"
    calls = [
        binding.value
        for block in after["main"].body.blocks
        for binding in block.bindings
        if is_call_to(binding.value, "relax.call_tir")
    ]
    weights = [next(a for a in call.args[1] if hasattr(a, "value")) for call in calls]
    assert len({weight.value.numpy().tobytes() for weight in weights}) == 3


def test_another_plan_is_another_function():
    (few,), (many,) = (prim_funcs(lowered(two_convolutions, rows)) for rows in (6, 12))
    assert not structural_equal(few, many)


def test_results_that_others_read_are_outputs():
    def body(emit, x):
        y = emit(panel.depthwise_conv2d(x, WEIGHTS[0], CONV))
        z = emit(panel.depthwise_conv2d(y, WEIGHTS[1], CONV))
        return emit(relax.Tuple([y, z]))

    after = lowered(body)
    calls = [
        binding.value
        for block in after["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]
    (call,) = calls
    assert len(call.ty.fields) == 2


def images_in_and_out(emit, x):
    """A network that reads and returns images of 14 pixels a row in panels of 16 lanes."""
    y = two_convolutions(emit, emit(panel.image_to_panels(x, 16)))
    return emit(panel.panels_to_image(y, (1, 8, 24, 14)))


def test_a_region_reads_and_writes_images():
    formed = losing_regions(CPU, 5, "carry")(dataflow(images_in_and_out, (1, 8, 24, 14)))
    (report,) = formed.attrs[REGIONS]
    assert list(report["operators"]) == [
        "image_to_panels",
        *["depthwise_conv2d"] * 2,
        "panels_to_image",
    ]


def test_an_image_inside_is_a_stop():
    def body(emit, x):
        image = emit(panel.panels_to_image(x, (1, 8, 24, 14)))
        return emit(panel.image_to_panels(image, 32))

    formed = losing_regions(CPU)(dataflow(body, PANELS))
    assert [len(report["layers"]) for report in formed.attrs[REGIONS]] == [1, 1]


def test_functions_without_regions_stay():
    before = dataflow(two_convolutions, PANELS)
    tvm.ir.assert_structural_equal(LowerRegions(CPU)(before), before)


def shapes_of(name, batch):
    return {key: (batch, *shape[1:]) for key, shape in recipes.recipe(name).shapes.items()}


@pytest.mark.parametrize(
    ("name", "batch", "columns", "overlap"),
    [
        ("resnet-tiny-90", 1, 3, "recompute"),
        ("mobilenet-tiny-90", 2, 5, "carry"),
        ("efficientnet-tiny-90", 2, 4, "recompute"),
        ("bert-tiny-90", 2, 1, "carry"),
        ("vit-tiny-90", 2, 2, "recompute"),
    ],
)
def test_whole_models(tmp_path, name, batch, columns, overlap):
    path = recipes.recipe(name).build(tmp_path / "model.onnx")
    reports = check_in_regions(path, shapes_of(name, batch), columns, overlap)
    assert max(len(report["layers"]) for report in reports) > 2


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("mode", "size"),
    [("half_pixel", (10, 14)), ("align_corners", (13, 17)), ("asymmetric", (15, 14))],
)
@pytest.mark.parametrize("overlap", ["recompute", "carry"])
def test_a_detector_head_with_a_bilinear_enlargement_is_one_region(
    tmp_path, batch, mode, size, overlap
):
    rng, node = np.random.default_rng(0), onnx.helper.make_node
    resize = {"mode": "linear", "coordinate_transformation_mode": mode}
    nodes = [
        node("Conv", ["deep", "deep_weight"], ["a"], pads=[1] * 4),
        node("Resize", ["a", "", "", "size"], ["b"], **resize),
        node("Concat", ["b", "flat"], ["c"], axis=1),
        node("Conv", ["c", "weight"], ["y"], pads=[1] * 4),
    ]
    weights = {
        "deep_weight": rng.standard_normal((6, 4, 3, 3)).astype("float32"),
        "weight": rng.standard_normal((8, 9, 3, 3)).astype("float32"),
        "size": np.array([batch, 6, *size]),
    }
    shapes = {"deep": (batch, 4, 5, 7), "flat": (batch, 3, *size)}
    path = write_onnx(tmp_path / "model.onnx", nodes, shapes, ["y"], weights, opset=18)
    reports = check_in_regions(path, shapes, 4, overlap)
    (stages,) = (list(report["operators"]) for report in reports if "column_rows" in report)
    computing = [name.removeprefix("flat_") for name in stages if "panels" not in name]
    assert computing == ["conv2d", "bilinear2d", "concat", "conv2d"]


def test_functions_of_elements_stay_in_their_region(tmp_path):
    rng, node = np.random.default_rng(0), onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "first"], ["a"], pads=[1] * 4),
        node("Abs", ["a"], ["b"]),
        node("Pow", ["b", "exponent"], ["c"]),
        node("Neg", ["c"], ["d"]),
        node("Exp", ["d"], ["e"]),
        node("Clip", ["e", "low", "high"], ["f"]),
        node("Conv", ["f", "last"], ["y"], pads=[1] * 4),
    ]
    weights = {
        "first": rng.standard_normal((6, 4, 3, 3)).astype("float32"),
        "last": rng.standard_normal((5, 6, 3, 3)).astype("float32"),
        "exponent": np.float32(0.75),
        "low": np.float32(0.1),
        "high": np.float32(0.9),
    }
    shapes = {"x": (2, 4, 9, 13)}
    path = write_onnx(tmp_path / "model.onnx", nodes, shapes, ["y"], weights, opset=18)
    reports = check_in_regions(path, shapes, 4, "carry")
    (stages,) = (list(report["operators"]) for report in reports if "column_rows" in report)
    assert stages.count("conv2d") == 2
    assert stages.count("elementwise") == 5


def check_in_regions(path, shapes, columns, overlap):
    """Run a model in regions, even where they lose; return what the pass reports of the regions."""
    imported = import_module(path, shapes)
    formed = losing_regions(CPU, columns, overlap)
    phases = [*pipeline.canonicalize(), *pipeline.sparsify(CPU), formed, *pipeline.lower(CPU)]
    with CPU.to_target():
        mod = tvm.transform.Sequential(phases)(imported.mod)
        executable = tvm.compile(mod, relax_pipeline="default_build")
    inputs = random_inputs(imported.inputs)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*map(tvm.runtime.tensor, inputs.values()))
    results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    want = [*onnxruntime_outputs(path, inputs).values()]
    assert output_error([tensor.numpy() for tensor in results], want) < 1e-4
    return mod.attrs[REGIONS]


def test_the_modes_of_compile_agree(tmp_path):
    name = "resnet-tiny-90"
    path = recipes.recipe(name).build(tmp_path / "model.onnx")
    inputs, outputs, reports = None, [], []
    for columns, overlap in (("off", "auto"), ("auto", "auto"), (4, "carry")):
        options = {"columns": columns, "overlap": overlap, "records": RecordedPlans()}
        engine = tvm_sparse.compile(path, shapes_of(name, 2), **options)
        reports.append(engine.report.records)
        inputs = inputs or random_inputs(engine.inputs)
        outputs.append([*engine.run(inputs).values()])
    planned = [used.by_cost_model for used in reports]
    assert planned[0] == 0 < planned[1]
    assert all(output_error(got, outputs[0]) < 1e-5 for got in outputs[1:])
