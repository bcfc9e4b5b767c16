"""One layer to tune: the libraries that run its kernels, and what they are called with."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.cpu.profile import processor
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.sparsify.pack_dense_weights import dense_layer
from tvm_sparse.passes.sparsify.sparsify_weights import sparse_layer
from tvm_sparse.records.file import Plan
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.families import family_of, from_fields
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tuning.devices import Arguments, Build
from tvm_sparse.tuning.libraries import build_module, common_lanes


@dataclass(frozen=True)
class LayerKernel:
    """A layer by itself, whose weight is in a file.

    Attributes
    ----------
    layer : Layer
        Its sizes.
    folder : Path
        Where the weight is, ``weight.npy``.
    target : str
        Name of the CPU profile.
    threads : int
        Threads of the kernels.
    """

    layer: Layer[Any]
    folder: Path
    target: str
    threads: int

    @staticmethod
    def write(
        layer: Layer[Any], weight: NDArray[np.float32], folder: Path, target: str, threads: int
    ) -> LayerKernel:
        """Write the weight, `(n, k)` or that of a convolution, to a folder."""
        np.save(folder / "weight.npy", weight)
        return LayerKernel(layer, folder, target, threads)

    def build(self, plan: Plan) -> Build:
        """Tell how the library of a kernel is built."""
        problem = self.layer.problem
        arguments = {
            "weight": str(self.folder / "weight.npy"),
            "problem": vars(problem),
            "plan": dict(plan),
            "target": self.target,
            "threads": self.threads,
        }
        return Build(f"{__name__}:build_layer", arguments)

    def arguments(self) -> Arguments:
        """Write what the kernels are called with: random panels."""
        shape, lanes = _panels(self.layer.problem)
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        path = self.folder / "arguments.npz"
        np.savez(path, x)
        cpu = processor(self.target, self.threads)
        problem = self.layer.problem
        if isinstance(problem, Conv2d):
            return Arguments(path, (problem.out_width,))
        return Arguments(path, (common_lanes(lanes, cpu),))


def _panels(problem: Linear | Conv2d) -> tuple[tuple[int, int, int], int]:
    """Return the shape of a layer's input, and the lanes of its output."""
    if isinstance(problem, Linear):
        return (problem.rows, problem.k, problem.lanes), problem.lanes
    shape = problem.batch * problem.height, problem.channels, problem.lanes_in
    return shape, problem.lanes_out


def build_layer(
    library: Path,
    weight: str,
    problem: dict[str, object],
    plan: Plan,
    target: str,
    threads: int,
) -> None:
    """Build a layer with bias as the function ``main`` of a library for the virtual machine."""
    cpu = processor(target, threads)
    tiling = from_fields(plan)
    assert tiling is not None
    family = family_of(tiling)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in problem.items()}
    layer = Layer(family.sizes(**fields))
    array = _read(weight)
    x = relax.Var("x", relax.TensorType(_panels(layer.problem)[0], "float32"))
    if family.is_sparse:
        call = sparse_layer(x, array, layer, tiling)
    else:
        call = dense_layer(x, array, layer, tiling, cpu)
    bias = relax.const(np.zeros(array.shape[0], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(operators.with_epilogue(call, bias=bias))
        builder.emit_func_output(result)
    build_module(builder.get(), library, cpu)


@functools.lru_cache(maxsize=1)
def _read(path: str) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = np.load(path)
    return weight
