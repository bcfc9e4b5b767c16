"""Kernels that the tuner tries: which, in which order, and what they are expected to cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvm_sparse.cpu.profile import profile
from tvm_sparse.formats.sparse import SparseTiling
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.conv2d import DenseConv2d
from tvm_sparse.schedules.operators.depthwise_conv2d import DepthwiseConv2d
from tvm_sparse.schedules.operators.flat_conv2d import FlatConv2d
from tvm_sparse.schedules.operators.linear import DenseLinear
from tvm_sparse.schedules.operators.sparse_conv2d import SparseConv2d
from tvm_sparse.schedules.operators.sparse_linear import SparseLinear
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.families import default_kernel, family_of, fits, sparse_or_dense
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tuning.ranking import kernel_candidates

CPU = profile("x86-64-v4")
CPUS = ["x86-64-v4", "haswell", "rpi3", "rpi4", "graviton3"]
CONV = Conv2d(1, 12, 9, 9, 10, (3, 3), padding=(1, 1, 1, 1), lanes_in=16, lanes_out=16)
DEPTHWISE = replace(CONV, out_channels=12, groups=12)
PLAIN = Epilogue()
LAYERS = {
    "sparse_linear": Layer(Linear(3, 32, 24, 40), 0.1),
    "linear": Layer(Linear(3, 32, 24, 40), 1.0),
    "sparse_conv2d": Layer(CONV, 0.1),
    "conv2d": Layer(replace(CONV, height=16, width=16), 1.0),
    "flat_conv2d": Layer(CONV, 1.0),
    "depthwise_conv2d": Layer(DEPTHWISE, 1.0),
}


CASES = [
    *((kind, name) for kind in LAYERS for name in CPUS if kind != "flat_conv2d"),
    *(("flat_conv2d", name) for name in ("x86-64-v4", "haswell")),
]


def large(kind):
    """Return a layer whose default kernel is of a family on every processor of `CASES`."""
    layer = LAYERS[kind]
    if isinstance(layer.problem, Linear):
        return replace(layer, problem=Linear(8, 32, 256, 256))
    sizes = {"channels": 64, "out_channels": 64, "groups": 64 if "depthwise" in kind else 1}
    return replace(layer, problem=replace(layer.problem, **sizes))


def stage_of(layer, tiling, cpu):
    """Return the stage that computes a layer with a tiling and no epilogue."""
    problem, name = layer.problem, family_of(tiling).name
    if isinstance(problem, Linear):
        if name == "linear":
            return DenseLinear(problem.input, problem.n, PLAIN, cpu, tiling)
        return SparseLinear(problem.input, problem.n, tiling, PLAIN, cpu, layer.density)
    if name == "sparse_conv2d":
        return SparseConv2d(problem, tiling, PLAIN, cpu, layer.density)
    stages = {"conv2d": DenseConv2d, "flat_conv2d": FlatConv2d}
    return stages.get(name, DepthwiseConv2d)(problem, PLAIN, cpu, tiling)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_tuner_expects_what_the_compiler_expects(kind, name):
    cpu, layer = profile(name), large(kind)
    first, *others = kernel_candidates(layer, cpu, 1.6)
    assert first.tiling == default_kernel(layer, cpu)
    assert family_of(first.tiling).name == kind
    cycles_a_second = cpu.memory_system.clock_hz * cpu.cores
    for candidate in (first, *others):
        family = family_of(candidate.tiling)
        assert candidate.seconds == family.cycles(layer, candidate.tiling, cpu) / cycles_a_second
    assert first.seconds == sparse_or_dense(layer, cpu).cycles / cycles_a_second


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_stage_costs_what_its_family_says(kind, name):
    """Stages leave out the time in which cores wait: regions count that by themselves."""
    cpu, layer = profile(name), large(kind)
    alone = replace(cpu, cores=1)
    for candidate in kernel_candidates(layer, cpu, 1.6)[:5]:
        family = family_of(candidate.tiling)
        counts_waiting = family.is_sparse or family.name == "flat_conv2d"
        cpu_of_stage = alone if counts_waiting else cpu
        expected = family.cycles(layer, candidate.tiling, cpu_of_stage)
        stage = stage_of(layer, candidate.tiling, cpu)
        assert stage.cycles() == expected + PLAIN.cycles(stage.tensor, cpu)


def test_the_loads_of_the_target_decide_about_its_ranking():
    """The Cortex-A53 loads half as many vectors as the Cortex-A72, and needs larger tiles."""
    layer = large("sparse_linear")
    a53, a72 = (profile(name) for name in ("rpi3", "rpi4"))
    family = family_of(default_kernel(layer, a72))
    tiling = family.default(layer, a72)
    one_vector = replace(tiling, rows=1)
    slower = [family.cycles(layer, one_vector, cpu) for cpu in (a53, a72)]
    assert slower[0] > 1.5 * slower[1]


@pytest.mark.parametrize("kind", LAYERS)
def test_candidates(kind):
    layer = LAYERS[kind]
    first, *others = kernel_candidates(layer, CPU, 1.6)
    assert first.tiling == default_kernel(layer, CPU)
    assert len(others) > 2
    assert len({candidate.tiling for candidate in others} - {first.tiling}) == len(others)
    assert all(fits(layer, candidate.tiling, CPU) for candidate in others)
    fewer = {candidate.tiling for candidate in kernel_candidates(layer, CPU, 1.1)}
    assert fewer < {candidate.tiling for candidate in (first, *others)}


@pytest.mark.parametrize("density, both", [(0.05, False), (0.55, True), (1.0, False)])
def test_sparse_or_dense_where_it_is_close(density, both):
    layer = Layer(Linear(4, 32, 768, 768), density)
    kinds = {type(candidate.tiling) for candidate in kernel_candidates(layer, CPU, 1.3)}
    assert len(kinds) == 1 + both
    assert SparseTiling in kinds or density == 1
