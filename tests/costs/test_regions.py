"""What the cost model must get right whatever its constants: comparisons, not times."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.shapes import Edge, RegionShape, StageShape
from tvm_sparse.columns.tiles import ONE_ROW, Tiles
from tvm_sparse.costs.best_plan import best_plan, promising_plans
from tvm_sparse.costs.overlap import expected_scratch_bytes
from tvm_sparse.costs.regions import predict, predict_alone
from tvm_sparse.costs.traffic import Distance, Traffic, caches, moved
from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.testing.columns import halo_share

WINDOW = RowMap(before=1, after=2)
CPU = dataclasses.replace(profile("haswell"), cores=2)


def chain(
    depth: int, height: int, channels: int, lanes: int, images=1, weight_bytes=4096, seen=WINDOW
) -> RegionShape:
    """Layers of three multiply-adds per value read, which is little."""
    tensor = Tensor(images, height, channels, lanes)
    stages = [
        StageShape("conv", tensor, (Edge(i - 1, seen),), ONE_ROW, tensor.bytes / 4, weight_bytes)
        for i in range(depth)
    ]
    return RegionShape(tuple(stages), (tensor,), (depth - 1,))


def alone(region: RegionShape) -> RegionShape:
    """Return the first layer as a region."""
    return dataclasses.replace(region, stages=region.stages[:1], outputs=(0,))


@given(
    own=st.floats(0, 1e10),
    others=st.floats(1, 64),
    name=st.sampled_from(list(PROFILES)),
)
def test_every_byte_is_somewhere_and_farther_after_more_others(own, others, name):
    here = caches(profile(name))
    shares = here.levels(Distance(own, own * others))
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    later = here.levels(Distance(2 * own, 2 * own * others))
    assert all(sum(later[:n]) <= sum(shares[:n]) + 1e-9 for n in range(4))


def test_fused_layers_leave_out_the_traffic_between_them():
    region = chain(3, 320, 32, 320)
    cpu = dataclasses.replace(profile("skylake-avx512"), cores=2)
    plan, fused = best_plan(region, cpu)
    apart = predict_alone(alone(region), cpu)
    assert sum(fused.bytes_moved[2:]) < sum(apart.bytes_moved[2:]) * 3 / 2
    assert fused.seconds < 3 * apart.seconds
    assert fused.scratch_bytes <= cpu.l2_bytes and plan.column_rows >= 32


def test_an_operator_costs_the_same_as_a_region_of_one():
    region = chain(1, 320, 32, 320)
    as_region = predict(region, ColumnPlan(160, 160), CPU)
    as_kernel = predict_alone(region, CPU)
    assert as_region.seconds == pytest.approx(as_kernel.seconds, rel=0.02)


def test_large_weights_want_long_steps_or_no_region():
    region = chain(4, 16, 64, 16, weight_bytes=CPU.l2_bytes // 2, seen=RowMap())
    short, long = (predict(region, ColumnPlan(8, rows), CPU).seconds for rows in (1, 8))
    assert long < short
    fused = best_plan(region, CPU)[1].seconds
    assert 4 * predict_alone(alone(region), CPU).seconds < fused + 4 * 5e-6


def test_computing_hides_most_of_the_time_to_read_weights_but_not_all():
    def seconds(weight_bytes):
        region = chain(1, 64, 64, 64, weight_bytes=weight_bytes, seen=RowMap())
        (stage,) = region.stages
        busy = dataclasses.replace(stage, cycles=1e9)
        return predict(dataclasses.replace(region, stages=(busy,)), ColumnPlan(32, 1), CPU)

    little, much = seconds(0), seconds(2 * CPU.l2_bytes)
    reading = much.traffic_seconds - little.traffic_seconds
    assert much.compute_seconds > much.traffic_seconds
    assert 0.1 * reading < much.seconds - little.seconds < 0.5 * reading


def test_an_output_is_written_to_memory_that_was_used_long_before():
    rows = CPU.l2_bytes * 11 // 20 // (4 * 64 * 64)
    region = chain(1, rows, 64, 64, weight_bytes=0, seen=RowMap())
    _, near, far, _ = predict_alone(region, CPU).bytes_moved
    assert near > region.inputs[0].bytes  # the whole input, and some of the output
    assert 0 < far < region.inputs[0].bytes


def test_rows_are_read_half_of_what_both_stages_touch_besides_after_they_are_written():
    l2, row = CPU.l2_bytes, 4 * 64 * 64
    step = l2 // 10 // row
    region = chain(2, 100 * step, 64, 64, weight_bytes=3 * l2 // 10, seen=RowMap())
    # A step touches three times 0.1 of L2 of rows, and twice 0.3 of weights, too much to stay near.
    touched = 3 * step * row + 2 * (3 * l2 // 10)
    written_far = sum(caches(CPU).levels(Distance(touched, CPU.cores * touched))[2:])
    got = predict(region, ColumnPlan(50 * step, step), CPU)
    beyond = sum(got.bytes_moved[2:]) - sum(got.weights_moved[2:])
    (image,) = region.inputs
    assert 0.2 < written_far < 0.5
    assert beyond == pytest.approx((2 + written_far) * image.bytes, rel=0.02)


@pytest.mark.parametrize(("row_parts", "cores"), [(0, 2), (2, 2), (1, 1)])
def test_kernels_that_cut_rows_or_run_on_one_core_find_their_rows_near(row_parts, cores):
    assert _exchange(row_parts, cores) == pytest.approx(0)


def test_kernels_that_cut_channels_hand_rows_from_core_to_core():
    assert 0 < _exchange(1, 2) < _exchange(1, 4) and _exchange(2, 4) < _exchange(1, 4)
    shared = dataclasses.replace(CPU, l3_bytes=0)
    assert _exchange(1, 2, shared) == 0  # the last cache is the same for all cores


def _exchange(row_parts: int, cores: int, cpu=CPU) -> float:
    """Return the bytes that come from farther away than if only rows were cut."""
    region = chain(1, 32, 32, 32)
    cpu = dataclasses.replace(cpu, cores=cores)
    cut = dataclasses.replace(region.stages[0], row_parts=row_parts)
    rows, channels = (
        predict_alone(dataclasses.replace(region, stages=(stage,)), cpu)
        for stage in (region.stages[0], cut)
    )
    assert sum(channels.bytes_moved) == pytest.approx(sum(rows.bytes_moved))
    assert channels.seconds >= rows.seconds
    return sum(channels.bytes_moved[2:]) - sum(rows.bytes_moved[2:])


def test_rows_take_longer_than_weights_at_the_same_distance():
    rows, weights = Traffic(), Traffic()
    distance = Distance(CPU.l2_bytes / 2, CPU.l2_bytes / 2)
    rows.read(64.0, distance)
    weights.stream(64.0, distance)
    of_rows, of_weights = moved([rows, weights], caches(CPU))
    assert (of_rows.bytes == of_weights.bytes).all()
    assert of_rows.seconds > of_weights.seconds > 0


def test_threads_wait_for_the_one_with_most_columns():
    region = chain(2, 96, 8, 32, seen=RowMap())
    three = predict(region, ColumnPlan(32, 32), CPU)
    one = predict(region, ColumnPlan(32, 32), dataclasses.replace(CPU, cores=3))
    assert three.compute_seconds == pytest.approx(2 * one.compute_seconds)
    assert three.columns == 3


def test_uneven_columns_of_several_images():
    region = chain(2, 50, 8, 32, images=3)
    prediction = predict(region, ColumnPlan(20, 20), CPU)
    assert prediction.columns == 9
    one = predict(region, ColumnPlan(20, 20), dataclasses.replace(CPU, cores=1))
    assert one.compute_seconds / 2 < prediction.compute_seconds < one.compute_seconds


@pytest.mark.parametrize("plan", [ColumnPlan(40, 4), ColumnPlan(40, 8, "recompute")])
def test_the_halo_is_the_one_that_runs(plan):
    region = chain(3, 200, 8, 32)
    assert predict(region, plan, CPU).halo_share == pytest.approx(halo_share(region, plan))


@pytest.mark.parametrize(("height", "cores"), [(1, 4), (7, 2), (7, 64), (320, 16)])
def test_candidates_keep_the_cores_busy_and_fit_the_cache(height, cores):
    cpu = dataclasses.replace(CPU, cores=cores)
    region = chain(3, height, 32, 32)
    plans = list(promising_plans(region, cpu))
    assert plans
    for plan in plans:
        assert plan.columns(region) >= min(cores, height)
        assert expected_scratch_bytes(region, [plan]) <= cpu.l2_bytes


def test_columns_give_cores_equal_shares_of_rows_that_no_tile_divides():
    tensor = Tensor(1, 14, 32, 16)
    stage = StageShape("conv", tensor, (Edge(-1, RowMap()),), Tiles(4), cycles=1.0)
    plans = list(promising_plans(RegionShape((stage,), (tensor,), (0,)), CPU))
    assert max(plan.column_rows for plan in plans) == 7
    assert {plan.step_rows for plan in plans if plan.column_rows == 7} == {4, 7}


def test_what_is_left_of_a_column_costs_a_tile_unless_it_joins_the_last():
    tensor = Tensor(1, 14, 32, 16)

    def compute(rows, most=1):
        stage = StageShape("conv", tensor, (Edge(-1, RowMap()),), Tiles(rows, most), 1e6)
        region = RegionShape((stage,), (tensor,), (0,))
        return predict(region, ColumnPlan(7, 7), CPU).compute_seconds

    assert compute(2) > compute(2, most=3) == compute(7) == compute(1)
    assert compute(4) > compute(4, most=7) == compute(1)
    assert compute(4) == compute(4, most=6)


def test_scratch_that_never_fits_still_has_a_plan():
    region = chain(3, 8, 512, 512)
    plan, prediction = best_plan(region, CPU, "recompute")
    assert prediction.scratch_bytes > CPU.l2_bytes
    assert plan == ColumnPlan(4, 1, "recompute") and math.isfinite(prediction.seconds)


def test_keys_and_values_are_read_whole_in_every_step():
    tokens, keys = Tensor(1, 32, 64, 16), Tensor(1, 32, 64, 16)
    stage = StageShape("attention", tokens, (Edge(-1, RowMap()), Edge(-2, None)), ONE_ROW, 1e5)
    region = RegionShape((stage,), (tokens, keys), (0,))
    often, once = (predict(region, ColumnPlan(16, rows), CPU) for rows in (1, 16))
    more = sum(often.bytes_moved) - sum(once.bytes_moved)
    assert more == pytest.approx((32 - 2) * keys.bytes)


def test_what_every_run_prepares_costs_once_alone_and_once_a_step():
    tokens = Tensor(1, 32, 64, 16)

    def compute(run_cycles, plan=None):
        edges = (Edge(-1, RowMap()),)
        stage = StageShape("attention", tokens, edges, ONE_ROW, 1e5, run_cycles=run_cycles)
        region = RegionShape((stage,), (tokens,), (0,))
        found = predict(region, plan, CPU) if plan else predict_alone(region, CPU)
        return found.compute_seconds * CPU.memory_system.clock_hz

    assert compute(1e4) - compute(0) == pytest.approx(1e4 / CPU.cores)
    columns = 32 // 16 / CPU.cores  # of each core
    for rows, steps in ((1, 16), (8, 2)):
        plan = ColumnPlan(16, rows)
        more = compute(1e4, plan) - compute(0, plan)
        assert more == pytest.approx(1e4 * steps * max(columns, 1))
