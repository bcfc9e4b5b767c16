from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvm_sparse.columns.plans import ColumnPlan, Measured, Stops
from tvm_sparse.cpu.profile import profile
from tvm_sparse.errors import InputError
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.regions.form_regions import REGION, REGIONS, FormRegions
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.pool2d import Pool2d
from tvm_sparse.testing.kernels import losing_regions
from tvm_sparse.testing.models import dataflow

CPU = profile("skylake-avx512")
ROWS, CHANNELS, LANES = 24, 8, 16
PANELS = (2 * ROWS, CHANNELS, LANES)


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((8, 4, 16), "float32"), z: R.Tensor((8, 4, 16), "float32")):
        with R.dataflow():
            a = R.add(x, z)
            b = R.nn.relu(a)
            c = R.multiply(b, a)
            R.output(c)
        return c


@I.ir_module
class Expected:
    @R.function(private=True)
    def tensor_column_0(x: R.Tensor((8, 4, 16), "float32"), z: R.Tensor((8, 4, 16), "float32")):
        with R.dataflow():
            a = R.add(x, z)
            b = R.nn.relu(a)
            c = R.multiply(b, a)
            result = c
            R.output(result)
        return result

    @R.function
    def main(x: R.Tensor((8, 4, 16), "float32"), z: R.Tensor((8, 4, 16), "float32")):
        with R.dataflow():
            c = Expected.tensor_column_0(x, z)
            R.output(c)
        return c


@I.ir_module
class BeforeTwoResults:
    @R.function
    def main(x: R.Tensor((8, 4, 16), "float32"), z: R.Tensor((8, 4, 16), "float32")):
        with R.dataflow():
            a = R.add(x, z)
            b = R.nn.relu(a)
            c = R.mean(a)
            R.output(b, c)
        return (b, c)


@I.ir_module
class ExpectedTwoResults:
    @R.function(private=True)
    def tensor_column_0(x: R.Tensor((8, 4, 16), "float32"), z: R.Tensor((8, 4, 16), "float32")):
        with R.dataflow():
            a = R.add(x, z)
            b = R.nn.relu(a)
            both = (a, b)
            R.output(both)
        return both

    @R.function
    def main(x: R.Tensor((8, 4, 16), "float32"), z: R.Tensor((8, 4, 16), "float32")):
        with R.dataflow():
            both = ExpectedTwoResults.tensor_column_0(x, z)
            a = both[0]
            b = both[1]
            c = R.mean(a)
            R.output(b, c)
        return (b, c)


def without_reports(mod):
    functions = {
        gvar: func.without_attr(REGION) if func.attrs and REGION in func.attrs else func
        for gvar, func in mod.functions_items()
    }
    return tvm.IRModule(functions)


@pytest.mark.parametrize(
    ("before", "expected"), [(Before, Expected), (BeforeTwoResults, ExpectedTwoResults)]
)
def test_a_region_becomes_a_function(before, expected):
    after = losing_regions(CPU)(before)
    tvm.ir.assert_structural_equal(without_reports(after), expected)


def test_off_leaves_the_module_alone():
    after = FormRegions(CPU, "off")(Before)
    tvm.ir.assert_structural_equal(after, Before)
    assert after.attrs is None or REGIONS not in after.attrs


def test_an_operator_by_itself_stays_but_is_reported():
    before = dataflow(lambda emit, x: emit(relax.op.nn.relu(x)), PANELS)
    after = losing_regions(CPU)(before)
    tvm.ir.assert_structural_equal(after["main"], before["main"])
    (report,) = after.attrs[REGIONS]
    assert "column_rows" not in report
    assert list(report["operators"]) == ["elementwise"]


@pytest.mark.parametrize(("columns", "overlap"), [("on", "auto"), (0, "auto"), ("auto", "keep")])
def test_unknown_options_are_refused(columns, overlap):
    with pytest.raises(InputError):
        FormRegions(CPU, columns, overlap)


def constant(*shape):
    return relax.const(np.ones(shape, "float32"))


def depthwise(x, stride=1, rows=ROWS):
    conv = Conv2d(
        *(2, CHANNELS, rows, 14, CHANNELS, (3, 3), (stride, stride), (1, 1, 1, 1), (1, 1)),
        CHANNELS,
        lanes_in=LANES,
        lanes_out=LANES // stride,
    )
    return panel.depthwise_conv2d(x, constant(CHANNELS, 1, 3, 3), conv)


def image_network(emit, x):
    """A residual branch, a concatenation, a strided layer and a pooling."""
    a = emit(depthwise(x))
    b = emit(panel.with_epilogue(depthwise(a), residual=x, activation="relu"))
    c = emit(relax.op.concat([a, b], axis=1))
    pool = Pool2d(
        *(2, 2 * CHANNELS, ROWS, 14, ROWS // 2, 7, (3, 3), (2, 2), (1, 1, 1, 1)),
        lanes_in=LANES,
        lanes_out=8,
    )
    return emit(panel.max_pool2d(c, pool))


def reports_of(**options):
    """Return what the pass reports of the regions of the network."""
    return losing_regions(CPU, **options)(dataflow(image_network, PANELS)).attrs[REGIONS]


def regions_of(mod):
    return [func for _, func in mod.functions_items() if func.attrs and REGION in func.attrs]


def test_regions_cross_residual_branches_concatenations_and_strides():
    after = losing_regions(CPU)(dataflow(image_network, PANELS))
    (region,) = regions_of(after)
    (report,) = after.attrs[REGIONS]
    names = ["depthwise_conv2d", "depthwise_conv2d", "concat", "max_pool2d"]
    assert list(report["operators"]) == names
    assert int(region.attrs[REGION]["images"]) == 2
    assert report["stop"] == "what follows does not work on rows"


def test_the_plan_is_an_attribute():
    (report,) = reports_of(column_rows=5, overlap="recompute")
    assert report["source"] == "user"
    assert (report["column_rows"], report["step_rows"] <= 5) == (5, True)
    assert report["columns"] == 2 * 3  # of each image
    assert report["overlap"] == "recompute" or report["step_rows"] == 5
    assert report["halo_share"] > 0
    assert len(report["bytes_moved"]) == 4
    assert 0 < report["scratch_bytes"] <= report["working_set_bytes"]


def test_a_region_prints_its_plan():
    (region,) = regions_of(losing_regions(CPU, column_rows=5)(dataflow(image_network, PANELS)))
    text = region.script()
    for word in ("column_rows", "step_rows", "overlap", "halo_share", "seconds", "stop"):
        assert word in text


@pytest.mark.parametrize("overlap", ["recompute", "carry"])
def test_the_overlap_is_the_one_asked_for(overlap):
    found = reports_of(overlap=overlap)
    # A column of one step has no overlap: nothing tells one from the other.
    assert all(r["overlap"] == overlap or r["step_rows"] == r["column_rows"] for r in found)


def test_keys_and_values_are_a_cache_stop():
    weight = constant(1, CHANNELS, CHANNELS)
    attrs = {"batch": 2, "tokens": 24 * LANES, "key_tokens": 24 * LANES, "heads": 2}
    attrs |= {"head_dim": CHANNELS // 2, "scale": 0.5}

    def body(emit, x):
        query, key, value = (emit(panel.linear(x, weight, CHANNELS)) for _ in range(3))
        context = emit(panel.attention(query, key, value, None, attrs))
        return emit(panel.with_epilogue(panel.linear(context, weight, CHANNELS), residual=x))

    after = losing_regions(CPU)(dataflow(body, PANELS))
    reports = after.attrs[REGIONS]
    together = [list(report["operators"]) for report in reports]
    assert together == [["linear"] * 3, ["attention", "linear"]]
    assert reports[0]["stop"].endswith("needs all rows")
    assert len(regions_of(after)[0].ret_ty.fields) == 3


def test_images_of_another_number_are_another_region():
    def body(emit, x):
        y = emit(depthwise(x))
        conv = Conv2d(
            *(1, CHANNELS, 2 * ROWS, 14, CHANNELS, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), CHANNELS),
            lanes_in=LANES,
            lanes_out=LANES,
        )
        return emit(panel.depthwise_conv2d(y, constant(CHANNELS, 1, 3, 3), conv))

    after = losing_regions(CPU)(dataflow(body, PANELS))
    assert [len(report["layers"]) for report in after.attrs[REGIONS]] == [1, 1]


PLAN = ColumnPlan(6, 2, "carry")


def measured(plan, share):
    """Return a lookup that knows a plan of the whole network, but none of its parts."""
    return lambda region: Measured(plan, share) if len(region.stages) == 4 else None


def test_a_measured_plan_wins_over_the_cost_model():
    (report,) = reports_of(plan_for=measured(PLAN, 0.01))
    assert report["source"] == "record"
    assert ColumnPlan(report["column_rows"], report["step_rows"], report["overlap"]) == PLAN


def test_the_user_wins_over_a_measured_plan():
    (report,) = reports_of(column_rows=3, plan_for=measured(PLAN, 0.01))
    assert (report["source"], report["column_rows"]) == ("user", 3)


def test_measured_stops_cut_a_region():
    reports = reports_of(plan_for=measured(Stops((2,)), 0.01))
    assert [len(report["layers"]) for report in reports] == [2, 2]
    assert all(report["source"] == "record" for report in reports)
    assert "measured" in reports[0]["stop"]


def test_what_was_measured_to_lose_is_not_formed():
    reports = reports_of(plan_for=lambda region: Measured(PLAN, 2.0))
    assert [len(report["layers"]) for report in reports] == [1, 1, 1, 1]


def test_other_operators_wait_so_that_runs_are_not_interrupted():
    def body(emit, x):
        a = emit(depthwise(x))
        mean = emit(relax.op.mean(a))
        b = emit(depthwise(a))
        return emit(relax.Tuple([mean, b]))

    after = losing_regions(CPU)(dataflow(body, PANELS))
    assert [len(report["layers"]) for report in after.attrs[REGIONS]] == [2]


@pytest.mark.parametrize(
    "function",
    [
        relax.op.abs,
        relax.op.exp,
        lambda x: relax.op.power(x, relax.const(1.5)),
        lambda x: relax.op.clip(x, 0.25, 2),
    ],
    ids=["abs", "exp", "power", "clip"],
)
def test_functions_of_elements_end_no_region(function):
    def body(emit, x):
        return emit(depthwise(emit(function(emit(depthwise(x))))))

    after = losing_regions(CPU)(dataflow(body, PANELS))
    (report,) = after.attrs[REGIONS]
    assert list(report["operators"]) == ["depthwise_conv2d", "elementwise", "depthwise_conv2d"]
