"""What `analyze` says of layers, operators and regions, in Python, on a page, and measured."""

import dataclasses
import json
import platform
from html.parser import HTMLParser

import pytest

from tvm_sparse.cli import main
from tvm_sparse.costs.best_plan import best_plan
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.report.analysis import analyze
from tvm_sparse.report.measured import rank_correlation
from tvm_sparse.report.page import render
from tvm_sparse.testing.models import write_mlp
from tvm_sparse.zoo import recipes


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    recipe = recipes.recipe("resnet-tiny-90")
    path = tmp_path_factory.mktemp("analysis") / "resnet.onnx"
    recipe.build(path)

    def run(target="skylake-avx512", **options):
        return analyze(
            path, recipe.shapes, target, **{"threads": 2, "records": RecordedPlans(), **options}
        )

    return run


@pytest.fixture(scope="module")
def found(resnet):
    return resnet()


def plans(analysis):
    return [region.plan for region in analysis.regions]


def test_every_layer_is_in_the_region_that_names_it(found):
    convolutions = [layer for layer in found.layers if layer.operator == "nn.conv2d"]
    assert len(convolutions) == 12
    for layer in convolutions:
        assert layer.binding in found.regions[layer.region].layers
    (head,) = (layer for layer in found.layers if layer.operator == "matmul")
    assert head.region is None


def test_operators_read_what_ran_before(found):
    regions = [operator.region for operator in found.operators if operator.region is not None]
    assert regions == sorted(regions)
    assert sorted(set(regions)) == list(range(len(found.regions)))
    for number, operator in enumerate(found.operators):
        assert all(source < number for source in operator.reads)
        if operator.region is not None:
            assert operator.name in found.regions[operator.region].layers
    by_name = {operator.name: operator for operator in found.operators}
    added = by_name["layer1_0_conv3_Conv"]
    names = {found.operators[source].name for source in added.reads}
    assert names == {"layer1_0_conv2_Conv", "layer1_0_downsample_0_Conv"}


def test_regions_gain(found):
    assert any(plans(found))
    assert found.seconds < found.alone_seconds
    for region in found.regions:
        assert (region.plan is None) == (len(region.layers) == 1)
        assert region.stop


def test_another_target_has_other_columns(resnet, found):
    pi = resnet("rpi4", threads=None)
    assert (pi.cpu.name, pi.cpu.cores) == ("rpi4", 4)
    assert plans(pi) != plans(found)


def test_options(resnet, found):
    assert resnet(columns="off").regions == ()
    asked = [region for region in resnet(columns=2).regions if region.plan]
    assert asked
    for region in asked:
        assert region.source == "user"
        assert region.plan.column_rows == 2
    kept = {plan.overlap for plan in plans(resnet(overlap="recompute")) if plan}
    assert kept == {"recompute"}


def test_json(found):
    record = found.to_json()
    assert record["l2_bytes"] == found.cpu.l2_bytes
    assert len(record["regions"]) == len(found.regions)
    for region in record["regions"]:
        assert {"column_rows", "seconds", "alone_seconds", "halo_share", "stop"} <= set(region)


class _Page(HTMLParser):
    """Checks that elements are closed in order; collects what links and frames name."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.outside = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named["href"]] if "href" in named else []
        self.outside += [name for name in named if name in ("src", "srcset", "data")]
        if tag not in ("meta", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass


class TestPage:
    def test_it_shows_every_region_and_needs_nothing_else(self, found):
        text = render(found)
        page = _Page(text)
        assert page.open == []
        assert page.ids == [f"region-{number}" for number in range(len(found.regions))]
        columns = [i for i, region in enumerate(found.regions) if region.plan]
        assert page.links == [f"#region-{number}" for number in columns]
        assert page.outside == []
        assert "http" not in text and "url(" not in text and "@import" not in text
        assert text.count("Cache stop") == len(columns)

    def test_both_ways_to_treat_the_overlap(self, found):
        region = next(region for region in found.regions if region.plan)
        for overlap in ("recompute", "carry"):
            plan, cost = best_plan(region.shape, found.cpu, overlap)
            assert plan.overlap == overlap
            assert f"{1e6 * cost.seconds:,.1f} us" in render(found)
        chosen = best_plan(region.shape, found.cpu, region.plan.overlap)
        assert chosen == (region.plan, region.prediction)

    def test_names_are_escaped(self, found):
        text = render(dataclasses.replace(found, model="<a & b>"))
        assert "<a & b>" not in text
        assert "&lt;a &amp; b&gt;" in text

    def test_without_columns(self, resnet):
        page = _Page(render(resnet(columns="off")))
        assert page.open == []
        assert page.links == []


def test_measure(tmp_path, capsys):
    path = write_mlp(tmp_path / "mlp.onnx")
    arguments = ["analyze", str(path), "--shape", "x=2,40,32", "--records", "off", "--measure"]
    page = tmp_path / "mlp.html"
    assert main.main([*arguments, "--html", str(page), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    measured = report["measured"]
    fused = [str(i) for i, region in enumerate(report["regions"]) if region["column_rows"]]
    assert fused and list(measured["regions"]) == fused
    for run in (*measured["regions"].values(), measured["together"], measured["alone"]):
        assert run["seconds"] > 0
    assert measured["alone"]["peak_bytes"] > 0
    assert "measured, one by one" in page.read_text()


def test_only_this_machine_is_measured(tmp_path, capsys):
    target = "rpi4" if platform.machine() == "x86_64" else "haswell"
    assert main.main(["analyze", str(tmp_path / "a.onnx"), "--target", target, "--measure"]) == 2
    assert "is not this machine" in capsys.readouterr().err


def test_rank_correlation():
    assert rank_correlation([1, 2, 3], [10, 20, 25]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [30, 20, 10]) == pytest.approx(-1)
    assert abs(rank_correlation([1, 2, 3, 4], [2, 4, 1, 3])) < 0.5
    # Ranks 1, 3, 2, 4 against 1, 2.5, 2.5, 4.
    assert rank_correlation([0.1, 0.4, 0.2, 0.9], [0, 1, 1, 2]) == pytest.approx(0.9**0.5)
