"""The kernel of a layer with a constant weight: sparse or dense, and how it is tiled.

The cost model chooses it, unless one was measured to be faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.sparse import SparseConvTiling, SparseTiling
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.choice import Choice, DenseTiling, dense_tiling, sparse_pays, sparse_tiling
from tvm_sparse.tilings.layer import Layer, Tiling
from tvm_sparse.tilings.sparse_conv2d import (
    DenseConvTiling,
    DepthwiseTiling,
    dense_conv_tiling,
    depthwise_tiling,
    sparse_conv_pays,
    sparse_conv_tiling,
)

KERNELS: dict[str, type[Any]] = {
    "sparse_linear": SparseTiling,
    "sparse_conv2d": SparseConvTiling,
    "linear": DenseTiling,
    "conv2d": DenseConvTiling,
    "depthwise_conv2d": DepthwiseTiling,
}
"""The operators, with what tells how they are tiled."""


KernelFor: TypeAlias = Callable[[Layer], Tiling | None]
"""Returns what was measured to be the best for a layer, if something was."""


def by_cost_model(_layer: Layer) -> None:
    """Know of no measured kernel."""


def dense_kernel(layer: Layer, cpu: CpuProfile) -> Tiling:
    """Return how the cost model tiles the dense kernel of a layer."""
    problem = layer.problem
    if isinstance(problem, Linear):
        return dense_tiling(problem.n, cpu)
    return (depthwise_tiling if layer.is_depthwise else dense_conv_tiling)(problem, cpu)


def sparse_kernel(layer: Layer, cpu: CpuProfile) -> SparseTiling | None:
    """Return how the cost model tiles the sparse kernel of a layer; None if there is none."""
    problem = layer.problem
    if isinstance(problem, Linear):
        return sparse_tiling(problem.n, problem.k, problem.rows, problem.lanes, cpu)
    if problem.groups > 1:
        return None
    try:
        return sparse_conv_tiling(problem, layer.density, cpu)
    except ValueError:  # its rows are out of reach
        return None


def sparse_or_dense(layer: Layer, cpu: CpuProfile) -> Choice:
    """Return what the cost model expects of the sparse and the dense kernel of a layer."""
    problem = layer.problem
    if isinstance(problem, Linear):
        sizes = problem.rows, problem.lanes
        return sparse_pays(problem.n, problem.k, layer.density, *sizes, cpu)
    return sparse_conv_pays(problem, layer.density, cpu)


def default_kernel(layer: Layer, cpu: CpuProfile) -> Tiling:
    """Return the cost model's choice."""
    sparse = sparse_kernel(layer, cpu) if sparse_or_dense(layer, cpu).sparse else None
    return sparse or dense_kernel(layer, cpu)


def to_fields(tiling: Tiling) -> dict[str, int | str]:
    """Return a kernel as the records hold it."""
    name = next(name for name, kind in KERNELS.items() if kind is type(tiling))
    values = {key: int(value) for key, value in dataclasses.asdict(tiling).items()}
    return {"kernel": name, **values}


def from_fields(fields: Mapping[str, int | str]) -> Tiling | None:
    """Return the kernel in a record, or None if none can have these fields."""
    kind = KERNELS.get(str(fields.get("kernel")))
    return (
        None if kind is None else tiling_of(kind, {k: fields[k] for k in fields if k != "kernel"})
    )


def tiling_of(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Return a tiling of a class from its fields, or None if it cannot have them."""
    names = {field.name for field in dataclasses.fields(kind)}
    if names != set(values):
        return None
    try:
        numbers = {name: int(value) for name, value in values.items()}
        if "shifted" in numbers:
            return kind(**{**numbers, "shifted": bool(numbers["shifted"])})
        return kind(**numbers) if min(numbers.values()) >= 1 else None
    except (TypeError, ValueError):
        return None
