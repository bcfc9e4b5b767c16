"""What `analyze` says of layers, operators and regions."""

import pytest

from tvm_sparse import models
from tvm_sparse.analysis import analyze
from tvm_sparse.recorded_plans import RecordedPlans


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    recipe = models.recipe("resnet-tiny-90")
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
        assert layer.name in found.regions[layer.region].layers
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
        tile = region.shape.stages[-1].tile
        assert region.plan.column_rows == max(2, tile)
    kept = {plan.overlap for plan in plans(resnet(overlap="recompute")) if plan}
    assert kept == {"recompute"}


def test_json(found):
    record = found.to_json()
    assert record["l2_bytes"] == found.cpu.l2_bytes
    assert len(record["regions"]) == len(found.regions)
    for region in record["regions"]:
        assert {"column_rows", "seconds", "alone_seconds", "halo_share", "stop"} <= set(region)
