"""How candidates of all kinds are built as libraries, and what these are called with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.compiler import build
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes import pipeline
from tvm_sparse.runtime.linking import link, link_command
from tvm_sparse.tuning.devices import Arguments


def build_module(mod: tvm.IRModule, library: Path, cpu: CpuProfile) -> None:
    """Build operators on panels, and regions of them, as a library for the virtual machine."""
    with cpu.to_target() as tvm_target:
        mod = tvm.transform.Sequential(pipeline.lower(cpu))(mod)
        executable = build(mod, tvm_target, "default_build")
    export(executable, library, cpu)


def export(executable: Any, library: Path, cpu: CpuProfile) -> None:
    """Write what was compiled as a library."""
    command = link_command(cpu.architecture)
    executable.export_library(str(library), fcompile=functools.partial(link, command))


def write_arguments(
    folder: Path,
    main: relax.Function,
    common: Callable[[relax.TensorType], int],
    weights: Sequence[np.ndarray] = (),
) -> Arguments:
    """Write random arguments of ``main``, and its last ones, which are weights, to a folder.

    Parameters
    ----------
    folder : Path
        For the file.
    main : relax.Function
        What is called.
    common : callable
        Returns how much of a result is compared, see `Arguments`.
    weights : sequence of numpy.ndarray
        The last arguments.
    """
    rng = np.random.default_rng(0)
    params = main.params[: len(main.params) - len(weights)]
    path = folder / "arguments.npz"
    np.savez(path, *(random_array(param.ty, rng) for param in params), *weights)
    is_tuple = isinstance(main.ret_ty, relax.TupleType)
    results = list(main.ret_ty.fields) if is_tuple else [main.ret_ty]
    return Arguments(path, tuple(map(common, results)))


def common_lanes(lanes: int, cpu: CpuProfile) -> int:
    """Return how many lanes hold no padding, which no plan needs to compute: whatever the width."""
    return lanes - (cpu.vector_lanes if lanes > cpu.vector_lanes else 8) + 1


def random_array(ty: relax.TensorType, rng: np.random.Generator) -> np.ndarray:
    """Return random numbers, or ones where they are no floating-point numbers."""
    shape, dtype = [int(n) for n in ty.shape], np.dtype(str(ty.dtype))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype)
