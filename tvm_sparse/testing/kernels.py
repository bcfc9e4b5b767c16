"""Kernels that are compiled and run, alone or in a region."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.building import build
from tvm_sparse.columns.options import ColumnRows, OverlapOption
from tvm_sparse.columns.plans import ColumnPlan, PlanFor
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.passes.regions.form_regions import FormRegions
from tvm_sparse.passes.regions.region_planner import RegionPlanner
from tvm_sparse.schedules.emit.panel_memory import Images
from tvm_sparse.schedules.operators.slice_channels import SliceChannels
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.schedules.tensor_column import Region, tensor_column

if TYPE_CHECKING:
    pass

Emit = Callable[[relax.Expr], relax.Var]


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


def relative_rms(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Return the root mean square of the error as a share of that of the result."""
    error = got.astype("float64") - want
    return float(np.sqrt(np.mean(error**2) / np.mean(np.square(want, dtype="float64"))))


def run_kernel(
    func: tvm.tirx.PrimFunc,
    inputs: Sequence[NDArray[Any]],
    shape: Sequence[int],
    cpu: CpuProfile | None = None,
) -> NDArray[Any]:
    """Compile a kernel, for this machine or `cpu`, and return its output.

    It was NaN before, or the number 77 if it consists of integers.
    """
    cpu = cpu or native()
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    kernel = build(module, cpu.to_target())["main"]
    dtype = str(func.params[-1].ty.dtype)
    y = tvm.runtime.tensor(np.full(shape, np.nan if "float" in dtype else 77, dtype))
    kernel(*[tvm.runtime.tensor(x) for x in inputs], y)
    return y.numpy()


def run_in_columns(
    stage: Stage,
    arrays: Mapping[str, NDArray[Any]],
    plan: ColumnPlan,
    cpu: CpuProfile | None = None,
) -> NDArray[Any]:
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
