"""How candidates of all kinds become libraries, and random arguments for these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.building import build
from tvm_sparse.cpu.profile import SHORT_VECTOR_BITS, CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.errors import LibraryError
from tvm_sparse.files import replacing
from tvm_sparse.passes import pipeline
from tvm_sparse.runtime.linking import link_command
from tvm_sparse.runtime.objects import write_shared_object
from tvm_sparse.tuning.devices import TOLERANCES, Arguments


def build_module(mod: tvm.IRModule, library: Path, cpu: CpuProfile) -> None:
    """Build a module on panels, with or without regions, as a library for the virtual machine."""
    with cpu.to_target() as tvm_target:
        mod = tvm.transform.Sequential(pipeline.lower(cpu))(mod)
        executable = build(mod, tvm_target, "default_build")
    export(executable, library, cpu)


def export(executable: Any, library: Path, cpu: CpuProfile) -> None:
    """Write a compiled module as a library."""
    command = link_command(cpu.architecture)
    with replacing(library, LibraryError) as temporary:
        write_shared_object(executable.mod, temporary.parent, command).replace(temporary)


def write_arguments(
    folder: Path,
    main: relax.Function,
    common: Callable[[relax.TensorType], int],
    weights: Sequence[np.ndarray] = (),
    precision: DType = DType.FLOAT32,
) -> Arguments:
    """Write random arguments of ``main`` to a folder; the last ones are given weights.

    Parameters
    ----------
    folder : Path
        The folder of the file.
    main : relax.Function
        The function.
    common : callable
        Returns how many values of a result's last axis are compared, see `Arguments`.
    weights : sequence of numpy.ndarray
        The last arguments of ``main``.
    precision : DType
        The type that results are computed in.
    """
    rng = np.random.default_rng(0)
    params = main.params[: len(main.params) - len(weights)]
    path = folder / "arguments.npz"
    np.savez(path, *(random_array(param.ty, rng) for param in params), *weights)
    is_tuple = isinstance(main.ret_ty, relax.TupleType)
    results = list(main.ret_ty.fields) if is_tuple else [main.ret_ty]
    return Arguments(path, tuple(map(common, results)), TOLERANCES[precision])


def common_lanes(lanes: int, cpu: CpuProfile) -> int:
    """Return how many lanes hold no padding in any plan, whatever its vector width."""
    vector, short = cpu.vector_lanes(cpu.activations), SHORT_VECTOR_BITS // cpu.activations.bits
    return lanes - (vector if lanes > vector else short) + 1


def random_array(ty: relax.TensorType, rng: np.random.Generator) -> np.ndarray:
    """Return random numbers of a floating-point type, or ones of another type."""
    shape, dtype = [int(n) for n in ty.shape], np.dtype(str(ty.dtype))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype)
