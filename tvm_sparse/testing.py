"""Helpers that the tests share: small modules and random pruned weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.columns.options import ColumnRows, OverlapOption
from tvm_sparse.columns.plans import ColumnPlan, PlanFor
from tvm_sparse.compiler import build
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.passes.regions.form_regions import FormRegions
from tvm_sparse.passes.regions.region_planner import RegionPlanner
from tvm_sparse.schedules.emit.panel_memory import Images
from tvm_sparse.schedules.operators.slice_channels import SliceChannels
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.schedules.tensor_column import Region, tensor_column
from tvm_sparse.sizes.conv2d import Conv2d

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Emit = Callable[[relax.Expr], relax.Var]


@contextlib.contextmanager
def needs_tool(missing: type[Exception]) -> Iterator[None]:
    """Skip a test if `missing` is raised because a tool is not installed.

    In continuous integration, where the environment variable CI is ``true``, the test fails.
    """
    import pytest

    try:
        yield
    except missing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def pruned(rng: np.random.Generator, shape: Sequence[int], density: float) -> NDArray[np.float32]:
    """Return random weights of which about `density` are not zero."""
    kept = rng.random(shape) < density
    return np.where(kept, rng.standard_normal(shape), 0).astype("float32")


def dataflow(body: Callable[..., relax.Expr], *shapes: Sequence[int]) -> tvm.IRModule:
    """Return a module whose ``main`` takes float32 tensors and computes ``body(emit, *tensors)``.

    `emit` binds an expression to a variable of the dataflow block.
    """
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", relax.TensorType(tuple(shape), "float32"))
        for i, shape in enumerate(shapes)
    ]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit, *params))
        builder.emit_func_output(result)
    return builder.get()


def operators_of(mod: tvm.IRModule) -> list[str]:
    """Return the names of the operators that ``main`` calls, in order, without ``relax.``."""
    names: list[str] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            names.append(expr.op.name.removeprefix("relax."))

    relax.analysis.post_order_visit(mod["main"], visit)
    return names


def run(executable: relax.VMExecutable, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run ``main`` of a compiled module that returns one tensor."""
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](*[tvm.runtime.tensor(x) for x in inputs]).numpy()


def write_onnx(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: Mapping[str, NDArray[Any]],
    opset: int = 17,
    domains: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Write an ONNX model of float32 inputs and outputs, and return `path`.

    `weights` become initializers; `options` go to ``onnx.save``.
    """
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, float32, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, float32, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path, **options)
    return path


def write_mlp(path: Path, density: float = 0.1, opset: int = 17, **options: Any) -> Path:
    """Write ``y = relu(x w0 + b0) w1`` of widths 32, 64, 48 and dynamic batch and tokens."""
    rng, node = np.random.default_rng(0), onnx.helper.make_node
    weights = {
        "w0": pruned(rng, (32, 64), density),
        "b0": rng.standard_normal(64).astype("float32"),
        "w1": pruned(rng, (64, 48), density),
    }
    nodes = [
        node("MatMul", ["x", "w0"], ["h"], name="/up/MatMul"),
        node("Add", ["h", "b0"], ["a"], name="/up/Add"),
        node("Relu", ["a"], ["r"], name="/Relu"),
        node("MatMul", ["r", "w1"], ["y"], name="/down/MatMul"),
    ]
    return write_onnx(path, nodes, {"x": ["batch", "tokens", 32]}, ["y"], weights, opset, **options)


def onnxruntime_outputs(path: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what ONNX Runtime computes without its own optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(inputs)), strict=True))


def losing_regions(
    cpu: CpuProfile,
    column_rows: ColumnRows = "auto",
    overlap: OverlapOption = "auto",
    plan_for: PlanFor | None = None,
) -> FormRegions:
    """Return the pass with a planner that forms regions even if they are expected to lose."""
    return FormRegions(
        cpu, planner=RegionPlanner(cpu, column_rows, overlap, plan_for, least_gain=-0.9)
    )


def run_kernel(
    func: tvm.tirx.PrimFunc,
    inputs: Sequence[NDArray[Any]],
    shape: Sequence[int],
    cpu: CpuProfile | None = None,
) -> NDArray[np.float32]:
    """Compile a kernel, for this machine or `cpu`, and return its output, which was NaN before."""
    cpu = cpu or native()
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    kernel = build(module, cpu.to_target())["main"]
    y = tvm.runtime.tensor(np.full(shape, np.nan, "float32"))
    kernel(*[tvm.runtime.tensor(x) for x in inputs], y)
    return y.numpy()


def run_in_columns(
    stage: Stage,
    arrays: Mapping[str, NDArray[Any]],
    plan: ColumnPlan,
    cpu: CpuProfile | None = None,
) -> NDArray[np.float32]:
    """Compute a stage, compiled for this machine or `cpu`, as part of a region.

    Stages that copy rows stand before and behind it, so that it reads from and writes to scratch
    memory that holds no more rows than needed; images, which are no panels, it reads and writes
    itself. `arrays` are its operands by name, in the order of its call.
    """
    cpu = cpu or native()
    sources = {name: tensor for name, (tensor, _) in stage.panels.items()}
    copied = [
        name
        for name, (tensor, seen) in stage.panels.items()
        if seen is not None and tensor.lanes > 1 and not isinstance(stage.parameter(name), Images)
    ]
    copies = [SliceChannels(sources[name], 0, sources[name].channels, cpu) for name in copied]
    places = {name: -1 - i for i, name in enumerate(sources)}
    tensor, y = stage.tensor, stage.result()
    shape: tuple[int, ...] = tensor.shape
    if isinstance(y, Images):
        shape, behind = (tensor.images, tensor.channels, tensor.rows, tensor.lanes), []
    else:
        behind = [SliceChannels(tensor, 0, tensor.channels, cpu)]
    region = Region(
        stages=(*copies, stage, *behind),
        operands=(
            *({"x": places[name]} for name in copied),
            {name: copied.index(name) if name in copied else places[name] for name in sources},
            *({"x": len(copies)} for _ in behind),
        ),
        inputs=tuple(sources.values()),
        outputs=(len(copies) + len(behind),),
    )
    others = [array for name, array in arrays.items() if name not in sources]
    inputs = [*(arrays[name] for name in sources), *others]
    return run_kernel(tensor_column(region, plan), inputs, shape, cpu)


def assembly(func: tvm.tirx.PrimFunc, cpu: CpuProfile) -> str:
    """Compile a kernel for `cpu`, which may be another machine's, and return its assembly."""
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return build(module, cpu.to_target()).mod.inspect_source("s")


def at_offset(array: NDArray[Any], offset: int) -> NDArray[Any]:
    """Return a copy that starts `offset` bytes after a multiple of 64."""
    memory = np.zeros(array.nbytes + 128, "uint8")
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def image_panels(x: NDArray[np.float32], lanes: int, junk: float = 0) -> NDArray[np.float32]:
    """Return images `(batch, channels, height, width)` as panels with `junk` beside them."""
    batch, channels, height, width = x.shape
    panels = np.full((batch, height, channels, lanes), junk, "float32")
    panels[..., :width] = x.transpose(0, 2, 1, 3)
    return panels.reshape(batch * height, channels, lanes)


def panel_image(panels: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the images of shape `shape` `(batch, channels, height, width)` in panels."""
    batch, channels, height, width = shape
    split = panels.reshape(batch, height, channels, -1)[..., :width]
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3))


def conv2d_reference(x: NDArray[Any], weight: NDArray[Any], problem: Conv2d) -> NDArray[np.float64]:
    """Return ``conv2d(x, weight)`` in double precision, `(batch, out_channels, rows, columns)`."""
    top, left, bottom, right = problem.padding
    padded = np.pad(x.astype("float64"), ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows, columns = problem.out_height, problem.out_width
    (step_y, step_x), (dilation_y, dilation_x) = problem.stride, problem.dilation
    shape = (problem.batch, problem.groups, -1, rows, columns)
    result = np.zeros((problem.batch, problem.out_channels, rows, columns))
    grouped = weight.reshape(problem.groups, -1, *weight.shape[1:])
    for dy, dx in np.ndindex(problem.kernel):
        seen = padded[:, :, dy * dilation_y :: step_y, dx * dilation_x :: step_x]
        seen = seen[:, :, :rows, :columns].reshape(shape)
        result += np.einsum("goc,ngchw->ngohw", grouped[:, :, :, dy, dx], seen).reshape(
            result.shape
        )
    return result


def square_conv2d(
    channels: int, size: int, stride: int, cpu: CpuProfile, kernel: int = 3, groups: int = 1
) -> Conv2d:
    """Return the sizes of a convolution of one square image that keeps its channels."""
    return Conv2d(
        batch=1,
        channels=channels,
        height=size,
        width=size,
        out_channels=channels,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2,) * 4,
        groups=groups,
        lanes_in=cpu.image_lanes(size),
        lanes_out=cpu.image_lanes(size // stride),
    )


def conv2d_problems(cpu: CpuProfile, depthwise: bool = False) -> SearchStrategy[Conv2d]:
    """Return a hypothesis strategy of small convolutions of any kind, of one group or depthwise."""
    from hypothesis import strategies as st

    @st.composite
    def problems(draw: Callable[[SearchStrategy[int]], int]) -> Conv2d:
        def pair(highest: int, lowest: int = 1) -> tuple[int, int]:
            sizes = st.integers(lowest, highest)
            return draw(sizes), draw(sizes)

        kernel, stride, dilation = pair(4), pair(3), pair(2)
        padding = (*pair(2, 0), *pair(2, 0))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        height = draw(st.integers(max(1, reach[0] - padding[0] - padding[2]), 12))
        width = draw(st.integers(max(1, reach[1] - padding[1] - padding[3]), 40))
        channels = draw(st.integers(1, 9))
        out_width = (width + padding[1] + padding[3] - reach[1]) // stride[1] + 1
        return Conv2d(
            batch=draw(st.integers(1, 2)),
            channels=channels,
            height=height,
            width=width,
            out_channels=channels if depthwise else draw(st.integers(1, 20)),
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=channels if depthwise else 1,
            lanes_in=cpu.image_lanes(width),
            lanes_out=cpu.image_lanes(out_width),
        )

    return problems()
