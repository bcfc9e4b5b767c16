"""The work of planning: what is asked how often, and that less work finds no worse plan."""

from __future__ import annotations

import itertools
import math

import pytest
from tvm import relax

from tvm_sparse.costs.best_plan import best_plan, promising_plans
from tvm_sparse.costs.overlap import expected_scratch_bytes
from tvm_sparse.costs.regions import predict, predict_best
from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.regions import region_planner
from tvm_sparse.passes.regions.region_graph import order_of, region_of, runs_of
from tvm_sparse.passes.regions.region_planner import LEAST_GAIN, RegionPlanner
from tvm_sparse.schedules.operators.pool2d import MaxPool2d
from tvm_sparse.sizes.pool2d import Pool2d
from tvm_sparse.testing.models import dataflow

CPU = profile("skylake-avx512")
POOL = Pool2d(1, 64, 64, 64, 64, 64, (3, 3), padding=(1, 1, 1, 1), lanes_in=64, lanes_out=64)


def run(layers: int, cpu=CPU):
    """Return the operators of a network of pooling layers, every second one read twice."""

    def network(emit, x):
        before = x
        for layer in range(layers):
            before, x = x, emit(panel.max_pool2d(x, POOL))
            if layer % 3 == 2:
                x = emit(relax.op.add(x, before))
        return x

    mod = dataflow(network, POOL.input.shape)
    (block,) = mod["main"].body.blocks
    (nodes,) = [item for item in runs_of(order_of(block, cpu)) if isinstance(item, list)]
    return nodes


@pytest.fixture
def count(monkeypatch):
    """Count the calls of functions: ``count(owner, name)`` returns a list with one entry a call."""

    def counted(owner, name):
        calls, function = [], getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (calls.append(a), function(*a, **k))[1])
        return calls

    return counted


def test_the_cycles_of_an_operator_are_asked_once(count):
    nodes = run(12)
    asked = count(MaxPool2d, "cycles")
    RegionPlanner(CPU, "auto", "auto", None).partition(nodes)
    assert len(asked) == 12


def test_planning_is_linear_in_the_number_of_layers(count):
    looked_at, priced = count(region_planner, "region_of"), count(region_planner, "best_endings")
    seen = []
    for layers in (24, 48, 96):
        nodes = run(layers)
        looked_at.clear()
        priced.clear()
        RegionPlanner(CPU, "auto", "auto", None).partition(nodes)
        seen.append((len(looked_at), len(priced)))
    (few, first), (more, second), (most, third) = seen
    assert most - more <= 2.1 * (more - few)
    assert first <= second == third, "alike regions are priced once"


@pytest.mark.parametrize("name", ["skylake-avx512", "rpi4", "haswell"])
def test_no_cut_of_a_run_is_expected_to_be_faster(name):
    cpu = profile(name)
    nodes = run(5, cpu)

    def seconds(first, end):
        region = region_of(nodes[first:end], cpu)
        if end - first == 1:
            return planner._alone(nodes[first]).alone_seconds
        return math.inf if region is None else best_plan(region.shape, cpu)[1].seconds * gain

    planner, gain = RegionPlanner(cpu, "auto", "auto", None), 1 + LEAST_GAIN
    found = sum(
        part.prediction.seconds * (gain if part.plan else 1) for part in planner.partition(nodes)
    )
    cuts = itertools.chain.from_iterable(
        itertools.combinations(range(1, len(nodes)), k) for k in range(len(nodes))
    )
    best = min(
        sum(seconds(*ends) for ends in itertools.pairwise((0, *cut, len(nodes)))) for cut in cuts
    )
    assert found == pytest.approx(best, rel=1e-9)


def test_measured_plans_are_looked_up_as_those_of_each_region():
    nodes, asked = run(8), []

    def plan_for(shape):
        asked.append(shape)

    RegionPlanner(CPU, "auto", "auto", plan_for).partition(nodes)
    possible = {
        region_of(nodes[start:end], CPU).shape
        for end in range(2, len(nodes) + 1)
        for start in range(end - 1)
    }
    assert len(set(asked)) > len(nodes)
    assert possible.issuperset(asked)


@pytest.mark.parametrize("name", list(PROFILES))
def test_plans_that_are_priced_together_cost_what_each_costs_alone(name):
    cpu = profile(name)
    shape = region_of(run(3, cpu), cpu).shape
    plans = promising_plans(shape, cpu)
    scratch = expected_scratch_bytes(shape, plans)
    alone = [predict(shape, plan, cpu) for plan in plans]
    best = min(range(len(plans)), key=lambda i: alone[i].seconds)
    plan, prediction = predict_best(shape, plans, scratch, cpu)
    assert plan == plans[best]
    assert prediction.seconds == pytest.approx(alone[best].seconds, rel=1e-12)
    assert prediction.bytes_moved == pytest.approx(alone[best].bytes_moved, rel=1e-9)
