"""What the benchmarks of tensor columns derive: bytes, bounds, rings and other numbers of cores."""

import dataclasses

import column_cases as cases
import column_cores as cores
import column_rings as rings
import column_roofline as roofline
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.bench.arrays import random_inputs
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.errors import TvmSparseError
from tvm_sparse.passes.regions.region_graph import region_of
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.report.analysis import alone_bytes_moved, analyze
from tvm_sparse.schedules.operators.elementwise import Elementwise
from tvm_sparse.schedules.operators.image_panels import image_to_panels
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import run_kernel
from tvm_sparse.zoo import recipes

CPU = dataclasses.replace(profile("skylake-avx512"), cores=2, l2_bytes=64 * 1024)


@given(
    images=st.integers(1, 8), rows=st.integers(1, 500), channels=st.integers(1, 64),
    threads=st.integers(1, 5),
)  # fmt: skip
def test_a_ring_is_shared_by_rows_of_one_thread_and_fits_the_cache(images, rows, channels, threads):
    tensor = Tensor(images, rows, channels, 16)
    share, size = rings.ring(tensor, dataclasses.replace(CPU, cores=threads))
    if size == share:
        assert size == images * rows
    else:
        assert 2 * size <= share and threads * share >= images * rows
        assert size * tensor.row_bytes <= CPU.l2_bytes * (3 / 8 if size == 1 else 1 / 8)


def test_kernels_in_rings_touch_few_rows():
    here = dataclasses.replace(native(), cores=2)
    tensor = Tensor(2, 40, 8, 16)
    with rings.in_rings(here):
        built = kernel(Elementwise("add", tensor, [(80, 8, 16), (80, 8, 16)], here))
    x = np.random.default_rng(0).standard_normal((80, 8, 16)).astype(np.float32)
    y = run_kernel(built, [x, x], x.shape, here)  # which was NaN before
    written = np.flatnonzero(np.isfinite(y).any(axis=(1, 2)))
    assert written.tolist() == [*range(8), *range(40, 48)]
    np.testing.assert_array_equal(y[written], 2 * x[written])


def test_images_in_rings_touch_few_rows():
    here = dataclasses.replace(native(), cores=2)
    with rings.in_rings(here):
        built = image_to_panels(2, 3, 40, 16, 16, here)
    x = np.random.default_rng(0).standard_normal((2, 3, 40, 16)).astype(np.float32)
    y = run_kernel(built, [x], (80, 3, 16), here).reshape(2, 40, 3, 16)
    assert np.isfinite(y).any(axis=(2, 3)).sum(axis=1).tolist() == [8, 8]
    np.testing.assert_array_equal(y[:, :8], x.transpose(0, 2, 1, 3)[:, :8])


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    return cases.network("resnet-tiny-90:4", tmp_path_factory.mktemp("columns"))


@pytest.fixture(scope="module")
def small_cache():
    """Return a processor beyond whose caches the activations of a small network lie."""
    return dataclasses.replace(profile("haswell"), cores=2, l2_bytes=64 * 1024)


def test_names_tell_batch_and_tokens(tmp_path):
    bert = cases.network("bert-tiny-95:2x8", tmp_path)
    assert set(bert.shapes.values()) == {(2, 8)} and bert.source.exists()
    assert cases.network("bert-tiny-95", tmp_path).shapes == recipes.recipe("bert-tiny-95").shapes
    with pytest.raises(TvmSparseError, match="MODEL:BATCH"):
        cases.network("bert-tiny-95:x8", tmp_path)


def test_convolutions_in_place_compute_the_same(tmp_path):
    here = dataclasses.replace(native(), cores=2)
    stack = cases.network("conv-stack-95", tmp_path)
    in_place = cases.in_place(stack, here)
    alone = [shape.stages[0].name for shape in cases.stages_alone(in_place.source, here)]
    assert alone == ["sparse_conv2d"] * 3  # no layout change is left
    engines = {}
    for name, case in (("off", stack), ("in place", in_place)):
        case.build(name, tmp_path, 2, **cases.MODES["off"])
        engines[name] = case.load(name, tmp_path, 2)
    cases.check_outputs(stack, engines, random_inputs(engines["off"].inputs))


@pytest.fixture(scope="module")
def analysis(resnet, small_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tvm_sparse.report.analysis.processor", lambda *_: small_cache)
        return analyze(resnet.source, resnet.shapes, records=RecordedPlans())


def test_columns_leave_out_activations_beyond_l2_not_weights(analysis):
    traffic = roofline.account(analysis)
    assert any(region.plan for region in analysis.regions)
    assert traffic.column_activations.bytes < traffic.activations.bytes
    assert 0 < traffic.ends.bytes < traffic.activations.bytes
    cpu = analysis.cpu
    nodes = [node for region in analysis.regions for node in region.nodes]
    moved = sum(sum(alone_bytes_moved(region_of([n], cpu).shape, cpu)[2:]) for n in nodes)
    # Convolutions in columns do without layout changes.
    inside = {name for region in analysis.regions for name in region.operators}
    alone = list(cases.stages_alone(analysis.alone, cpu))
    left_out = [shape for shape in alone if shape.stages[0].name not in inside]
    assert {shape.stages[0].name for shape in left_out} == {"image_to_panels"}
    moved += sum(sum(alone_bytes_moved(shape, cpu)[2:]) for shape in left_out)
    assert (traffic.activations + traffic.weights).bytes == pytest.approx(moved)
    assert len(alone) == traffic.launches + 1
    moved = sum(sum(r.prediction.bytes_moved[2:]) for r in analysis.regions)
    both = traffic.column_activations + traffic.column_weights
    assert both.bytes == pytest.approx(moved)
    # Nothing that columns do leaves out more than the bound takes away.
    saved = traffic.activations - traffic.column_activations
    assert saved.bytes <= traffic.removable.bytes * 1.001


def test_the_bounds_take_away_traffic_and_launches(analysis):
    cpu = analysis.cpu
    traffic = roofline.account(analysis)
    accounted, measured = roofline.bounds(0.5, 0.4, traffic, cpu)
    less = traffic.launches * 5e-6
    assert accounted == pytest.approx(0.5 / (0.5 - traffic.removable.seconds(cpu) - less))
    assert traffic.launches_in_rings == traffic.launches - 1  # one layout change less
    less = traffic.launches_in_rings * 5e-6
    assert measured == pytest.approx(0.5 / (0.4 - traffic.plain_seconds - less))
    beyond = roofline.Beyond(cpu.memory_system.l3.read, 0.0)
    assert beyond.seconds(cpu) == pytest.approx(1 / cpu.cores)  # cores do not hinder one another


def test_a_network_of_more_cores(resnet, small_cache):
    found = list(cores.simulate(resnet, small_cache, [1, 2, 64]))
    assert [count for count, *_ in found] == [1, 2, 64]
    for _, *both in found:
        for simulated in both:
            assert 0 < simulated.auto <= simulated.off
    for kind in (1, 2):
        times = [simulation[kind].auto for simulation in found]
        assert times == sorted(times, reverse=True)
    (_, shared, growing) = found[-1]
    assert growing.auto < shared.auto


def test_bandwidth_of_more_cores():
    shared, growing = (cores.with_cores(CPU, 8, grows) for grows in (False, True))
    assert shared.cores == growing.cores == 8
    for cpu, times in ((shared, 1), (growing, 4)):
        for level in ("l3", "memory"):
            before, after = (getattr(c.memory_system, level) for c in (CPU, cpu))
            assert after.shared == pytest.approx(times * before.shared)
            assert after.read == before.read
