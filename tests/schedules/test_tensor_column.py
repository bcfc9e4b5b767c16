"""Regions compute what their stages compute one by one; test_tensor_column_rows.py counts rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.formats.dense import pack_conv2d
from tvm_sparse.formats.sparse import PackedSparse, SparseConvTiling, SparseTiling
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.concat import Concat
from tvm_sparse.schedules.operators.depthwise_conv2d import DepthwiseConv2d
from tvm_sparse.schedules.operators.elementwise import Elementwise
from tvm_sparse.schedules.operators.flat_conv2d import FlatConv2d
from tvm_sparse.schedules.operators.linear import DenseLinear
from tvm_sparse.schedules.operators.pool2d import MaxPool2d
from tvm_sparse.schedules.operators.sparse_conv2d import SparseConv2d
from tvm_sparse.schedules.operators.sparse_linear import SparseLinear
from tvm_sparse.schedules.operators.upsample2d import Upsample2d
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.schedules.tensor_column import Region, tensor_column
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.pool2d import Pool2d
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.images import image_panels, panel_image
from tvm_sparse.testing.kernels import assembly, run_kernel
from tvm_sparse.testing.models import pruned
from tvm_sparse.tilings.flat_conv2d import FLAT_CONV2D_FAMILY
from tvm_sparse.tilings.layer import Layer as Sizes

CPU = native()
KINDS = (
    *("conv3x3", "strided", "pool", "depthwise", "pointwise"),
    *("residual", "add", "concat", "upsample", "flat"),
)


flat_refusal = FLAT_CONV2D_FAMILY.refusal


@dataclass
class Layer:
    """An operator of a random network.

    Attributes
    ----------
    make : callable
        Builds its stage; a stage can be emitted once.
    sources : tuple of int
        The layers it reads, in the order of its panels; -1 is the image.
    constants : sequence of array
        Its other arguments.
    """

    make: Callable[[], Stage]
    sources: tuple[int, ...]
    constants: Sequence[NDArray[Any]] = field(default=(), repr=False)


@dataclass
class Network:
    """A random network of images; `shapes` are those of its layers' results, the image's last."""

    images: int
    shapes: list[tuple[int, int, int]]
    layers: list[Layer] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def shape_of(self, source: int) -> tuple[int, int, int]:
        """Return channels, height, width."""
        return self.shapes[source]

    def lanes(self, source: int) -> int:
        return CPU.image_lanes(self.shapes[source][2])

    def tensor(self, source: int) -> Tensor:
        channels, height, _ = self.shapes[source]
        return Tensor(self.images, height, channels, self.lanes(source))

    def append(self, layer: Layer, shape: tuple[int, int, int]) -> None:
        self.layers.append(layer)
        self.shapes.insert(len(self.shapes) - 1, shape)

    def conv(self, x: int, outputs: int, kernel: int, stride: int, residual: int | None) -> None:
        channels, height, width = self.shape_of(x)
        problem = Conv2d(
            *(self.images, channels, height, width, outputs, (kernel, kernel), (stride, stride)),
            (kernel // 2,) * 4,
            lanes_in=self.lanes(x),
            lanes_out=CPU.image_lanes(-(-width // stride)),
        )
        tiling = SparseConvTiling(
            *(2, 3, 1, 16, int(self.rng.integers(1, 4))),
            width=CPU.vector_width(problem.lanes_out),
            row_block=6,
        )
        epilogue = Epilogue(bias=True, residual=residual is not None, activation="relu")
        weight = pruned(self.rng, (outputs, channels, kernel, kernel), 0.4)
        packed = PackedSparse.from_conv2d(weight, problem, tiling)
        bias = self.rng.standard_normal(outputs).astype("float32")
        constants = [packed.indptr, packed.channels, packed.offsets, packed.values, bias]
        sources = (x,) if residual is None else (x, residual)
        make = lambda: SparseConv2d(problem, tiling, epilogue, CPU, 0.4)  # noqa: E731
        shape = (outputs, problem.out_height, problem.out_width)
        self.append(Layer(make, sources, constants), shape)

    def flat_problem(self, x: int) -> Conv2d:
        channels, height, width = self.shape_of(x)
        lanes = self.lanes(x)
        return Conv2d(
            *(self.images, channels, height, width, 4, (3, 3)),
            padding=(1, 1, 1, 1),
            lanes_in=lanes,
            lanes_out=lanes,
        )

    def flat(self, x: int) -> None:
        channels, height, width = self.shape_of(x)
        problem = self.flat_problem(x)
        weight = self.rng.standard_normal((4, channels, 3, 3)).astype("float32")
        tiling = FLAT_CONV2D_FAMILY.default(Sizes(problem), CPU)
        make = lambda: FlatConv2d(problem, Epilogue(), CPU, tiling)  # noqa: E731
        packed = pack_conv2d(weight, 1, tiling.channels)
        self.append(Layer(make, (x,), [packed]), (4, height, width))

    def depthwise(self, x: int) -> None:
        channels, height, width = self.shape_of(x)
        lanes = self.lanes(x)
        problem = Conv2d(
            *(self.images, channels, height, width, channels, (3, 3)),
            padding=(1, 1, 1, 1),
            groups=channels,
            lanes_in=lanes,
            lanes_out=lanes,
        )
        weight = self.rng.standard_normal((channels, 1, 3, 3)).astype("float32")
        make = lambda: DepthwiseConv2d(problem, Epilogue(), CPU)  # noqa: E731
        self.append(Layer(make, (x,), [weight]), (channels, height, width))

    def pool(self, x: int) -> None:
        channels, height, width = self.shape_of(x)
        rows, pixels = -(-height // 2), -(-width // 2)
        pool = Pool2d(
            *(self.images, channels, height, width, rows, pixels, (3, 3), (2, 2), (1, 1, 1, 1)),
            lanes_in=self.lanes(x),
            lanes_out=CPU.image_lanes(pixels),
        )
        self.append(Layer(lambda: MaxPool2d(pool, CPU), (x,)), (channels, rows, pixels))

    def pointwise(self, x: int, outputs: int) -> None:
        channels, height, width = self.shape_of(x)
        lanes = self.lanes(x)
        tiling = SparseTiling(2, 3, rows=int(self.rng.integers(1, 3)))
        weight = pruned(self.rng, (outputs, channels), 0.4)
        packed = PackedSparse.from_dense(weight, lanes, tiling)
        constants = [packed.indptr, packed.channels, packed.offsets, packed.values]
        source, relu = Tensor(self.images, height, channels, lanes), Epilogue(activation="relu")
        make = lambda: SparseLinear(source, outputs, tiling, relu, CPU)  # noqa: E731
        self.append(Layer(make, (x,), constants), (outputs, height, width))

    def add(self, x: int, other: int) -> None:
        tensor = self.tensor(x)
        shape = tensor.shape
        make = lambda: Elementwise("add", tensor, [shape, shape], CPU)  # noqa: E731
        self.append(Layer(make, (x, other)), self.shape_of(x))

    def concat(self, x: int, other: int) -> None:
        sources = [self.tensor(x), self.tensor(other)]
        channels, height, width = self.shape_of(x)
        shape = (channels + self.shape_of(other)[0], height, width)
        self.append(Layer(lambda: Concat(sources, CPU), (x, other)), shape)

    def upsample(self, x: int) -> None:
        channels, height, width = self.shape_of(x)
        source, lanes = self.tensor(x), CPU.image_lanes(2 * width)
        make = lambda: Upsample2d(source, width, (2, 2), lanes, CPU)  # noqa: E731
        self.append(Layer(make, (x,)), (channels, 2 * height, 2 * width))

    def region(self, outputs: tuple[int, ...]) -> Region:
        stages = tuple(layer.make() for layer in self.layers)
        operands = tuple(
            dict(zip(stage.panels, layer.sources, strict=True))
            for stage, layer in zip(stages, self.layers, strict=True)
        )
        return Region(stages, operands, (self.tensor(-1),), outputs)

    def one_by_one(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the result of every layer."""
        results = [x]
        for layer in self.layers:
            stage = layer.make()
            *panels, last = (results[source] for source in layer.sources)
            is_residual = "residual" in stage.panels  # which comes behind the constants
            arguments = [*panels, *layer.constants, last] if is_residual else [*panels, last]
            arguments += [] if is_residual else layer.constants
            results.insert(
                len(results) - 1, run_kernel(kernel(stage), arguments, stage.tensor.shape)
            )
        return results[:-1]


def run_region(
    region: Region, plan: ColumnPlan, inputs: Sequence[NDArray[Any]]
) -> list[NDArray[np.float32]]:
    """Return the outputs of a region, whose arrays held NaN before."""
    func = tensor_column(region, plan).with_attr("global_symbol", "main")
    main = tvm.compile(tvm.IRModule({"main": func}), target=CPU.to_target())["main"]
    outputs = [
        tvm.runtime.tensor(np.full(region.stages[i].tensor.shape, np.nan, "float32"))
        for i in region.outputs
    ]
    main(*map(tvm.runtime.tensor, inputs), *outputs)
    return [output.numpy() for output in outputs]


@st.composite
def networks(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Network:
    """Return a network of two to four layers that depend on one another."""
    shape = (draw(st.integers(2, 5)), draw(st.integers(4, 19)), draw(st.integers(3, 20)))
    network = Network(draw(st.integers(1, 2)), [shape])
    for x in range(-1, draw(st.integers(1, 3))):
        size = network.shape_of(x)[1:]
        others = [i for i in range(-1, len(network.layers)) if i != x]
        alike = [i for i in others if network.shape_of(i)[1:] == size]
        equal = [i for i in alike if network.shape_of(i) == network.shape_of(x)]
        allowed = [
            kind
            for kind in KINDS
            if (alike or kind != "concat")
            and (equal or kind != "add")
            and (alike or kind != "residual")
            and (size[0] < 20 or kind != "upsample")
            and (kind != "flat" or not flat_refusal(Sizes(network.flat_problem(x)), CPU))
        ]
        kind = draw(st.sampled_from(allowed))
        outputs = draw(st.integers(1, 6))
        if kind == "residual":
            other = draw(st.sampled_from(alike))
            network.conv(x, network.shape_of(other)[0], 3, 1, other)
        elif kind == "add":
            network.add(x, draw(st.sampled_from(equal)))
        elif kind == "concat":
            network.concat(x, draw(st.sampled_from(alike)))
        elif kind == "conv3x3":
            network.conv(x, outputs, 3, 1, None)
        elif kind == "strided":
            network.conv(x, outputs, 3, 2, None)
        elif kind == "pointwise":
            network.pointwise(x, outputs)
        else:
            getattr(network, kind)(x)
    return network


@settings(max_examples=12, deadline=None)
@given(
    network=networks(),
    column=st.integers(1, 12),
    step=st.integers(1, 6),
    overlap=st.sampled_from(["recompute", "carry"]),
    also=st.sets(st.integers(0, 2), max_size=2),
)
def test_any_region(network, column, step, overlap, also):
    last = len(network.layers) - 1
    outputs = tuple(sorted({*(i for i in also if i < last), last}))
    channels, height, width = network.shape_of(-1)
    images = network.rng.standard_normal((network.images, channels, height, width))
    x = image_panels(images, network.lanes(-1), junk=7)
    constants = [array for layer in network.layers for array in layer.constants]
    region = network.region(outputs)
    plan = ColumnPlan(column, step, overlap).fitted(region.shape)
    results = run_region(region, plan, [x, *constants])
    expected = network.one_by_one(x)
    for i, result in zip(outputs, results, strict=True):
        assert np.isfinite(result).all()
        channels, height, width = network.shape_of(i)
        shape = (network.images, channels, height, width)
        want = panel_image(expected[i], shape)
        tolerance = 1e-6 * max(1.0, float(np.abs(want).max()))
        np.testing.assert_allclose(panel_image(result, shape), want, atol=tolerance)


@pytest.mark.parametrize("step", [3, 5])
def test_the_rows_of_a_run_may_lie_at_both_ends_of_a_columns_memory(step):
    network = Network(1, [(3, 40, 12)])
    network.flat(-1)
    network.depthwise(0)
    network.flat(1)
    x = image_panels(network.rng.standard_normal((1, 3, 40, 12)), network.lanes(-1), junk=7)
    constants = [array for layer in network.layers for array in layer.constants]
    (result,) = run_region(network.region((2,)), ColumnPlan(40, step, "carry"), [x, *constants])
    np.testing.assert_allclose(result[..., :12], network.one_by_one(x)[2][..., :12], atol=1e-4)


def test_accumulators_stay_in_registers_behind_a_stage_with_a_window():
    cpu = profile("skylake-avx512")
    problem = Conv2d(
        1, 512, 14, 14, 512, (3, 3), padding=(1, 1, 1, 1), groups=512, lanes_in=16, lanes_out=16
    )
    before = DepthwiseConv2d(problem, Epilogue(), cpu)
    layer = DenseLinear(Tensor(1, 14, 512, 16), 64, Epilogue(), cpu)
    region = Region((before, layer), ({"x": -1}, {"x": 0}), (problem.input,), (1,))
    code = assembly(tensor_column(region, ColumnPlan(14, 2)), cpu)
    # Only the dense linear layer's inner loop prefetches weights.
    blocks = re.split(r"^\.LBB\w+:", code, flags=re.MULTILINE)
    (loop,) = (block for block in blocks if "prefetch" in block and "vfmadd" in block)
    loop = loop[: loop.index("\tj")]
    assert loop.count("vfmadd") >= 16
    assert not re.findall(r"vmov\w+\t%zmm\d+, .*\(", loop)


@pytest.mark.parametrize(("overlap", "step"), [("carry", 2), ("carry", 7), ("recompute", 2)])
def test_inner_loops_find_rows_in_scratch_memory_without_arithmetic(overlap, step):
    cpu = profile("skylake-avx512")
    tiling = SparseTiling(8, 256, rows=2)
    before, layer = (
        SparseLinear(Tensor(1, 14, 512, 16), 512, tiling, Epilogue(), cpu, density=0.1)
        for _ in range(2)
    )
    region = Region((before, layer), ({"x": -1}, {"x": 0}), (before.tensor,), (1,))
    code = assembly(tensor_column(region, ColumnPlan(7, step, overlap)), cpu)
    blocks = re.split(r"^\.LBB\w+:", code, flags=re.MULTILINE)
    loops = [block[: block.index("\tj")] for block in blocks if block.count("\tvfmadd") >= 16]
    assert loops
    for loop in loops:
        # Of 8 weights, and a little for the loop itself.
        assert len(re.findall(r"^\t(?!vfmadd|vbroadcast|movzwl|prefetch)\w", loop, re.M)) <= 4
