"""The layers of a model to tune: the kernels to try, and the libraries that run them."""

from __future__ import annotations

import collections
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.cpu.precision import PrecisionOption, processor
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import Quantization, QuantizedWeight
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.sparsify.constant_layers import ConstantLayer, constant_layers
from tvm_sparse.passes.sparsify.pack_dense_weights import dense_layer
from tvm_sparse.passes.sparsify.quantized_layer import is_of_integers, layer_of_integers
from tvm_sparse.passes.sparsify.sparsify_weights import sparse_layer
from tvm_sparse.passes.sparsify.token_network import token_network
from tvm_sparse.records.keys import key_on, layer_key
from tvm_sparse.records.lookups import Lookups
from tvm_sparse.records.record import Plan
from tvm_sparse.tilings.families import family_of, kernel_from_fields, kernel_to_fields
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tuning.devices import TOLERANCES, Arguments, Build
from tvm_sparse.tuning.libraries import build_module
from tvm_sparse.tuning.part import Part, Setting
from tvm_sparse.tuning.ranking import kernel_candidates
from tvm_sparse.tuning.task import Task


@dataclass(frozen=True)
class LayerSubject:
    """A layer by itself, whose weight is in a file.

    Attributes
    ----------
    layer : Layer
        The sizes, and the density of the weight.
    folder : Path
        The folder with the weight, ``weight.npy``.
    target : str
        The name of the CPU profile.
    threads : int
        The number of threads that the kernels run on.
    precision : DType
        The type of the model's activations.
    steps : Quantization, optional
        The numbers that a quantized layer rounds its input to; its integers are in
        ``integers.npz``.
    """

    layer: Layer[Any]
    folder: Path
    target: str
    threads: int
    precision: DType = DType.FLOAT32
    steps: Quantization | None = None

    @staticmethod
    def write(
        layer: Layer[Any],
        weight: NDArray[np.float32],
        folder: Path,
        target: str,
        cpu: CpuProfile,
        quantized: QuantizedWeight | None = None,
    ) -> LayerSubject:
        """Write the weight, `(n, k)` or as a convolution has it, to a folder."""
        np.save(folder / "weight.npy", weight)
        steps = None
        if quantized is not None:
            steps = quantized.steps
            np.savez(folder / "integers.npz", values=quantized.values, scale=quantized.scale)
        return LayerSubject(layer, folder, target, cpu.cores, cpu.activations, steps)

    def build(self, plan: Plan) -> Build:
        """Return how the library of a kernel is built."""
        problem = self.layer.problem
        arguments = {
            "weight": str(self.folder / "weight.npy"),
            "problem": vars(problem),
            "plan": dict(plan),
            "target": self.target,
            "threads": self.threads,
            "precision": self.precision,
        }
        if self.steps is not None:
            arguments["integers"] = str(self.folder / "integers.npz")
            arguments["steps"] = vars(self.steps)
        return Build(f"{__name__}:build_layer_library", arguments)

    def arguments(self) -> Arguments:
        """Write the arguments of the kernels, which are random panels."""
        panels, outputs = self.layer.problem.input, self.layer.problem.output_lanes
        x = np.random.default_rng(0).standard_normal(panels.shape)
        if self.steps is not None:  # most values within the range
            x *= (self.steps.high - self.steps.low) / 6 * self.steps.scale
        x = x.astype(panels.dtype)
        path = self.folder / "arguments.npz"
        np.savez(path, x)
        return Arguments(path, (outputs,), TOLERANCES[self.precision])


def build_layer_library(
    library: Path,
    weight: str,
    problem: dict[str, object],
    plan: Plan,
    target: str,
    threads: int,
    precision: PrecisionOption,
    integers: str = "",
    steps: Mapping[str, Any] | None = None,
) -> None:
    """Build a layer with bias as the function ``main`` of a library for the virtual machine."""
    cpu = processor(target, threads, precision)
    tiling = kernel_from_fields(plan)
    assert tiling is not None
    family = family_of(tiling)
    # JSON has neither tuples nor element types.
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in problem.items()}
    dtype = fields["dtype"] = DType(str(problem["dtype"]))
    layer = Layer(family.sizes(**fields))
    array = _read(weight)
    x = relax.Var("x", relax.TensorType(layer.problem.input.shape, dtype))
    bias = relax.const(np.zeros(array.shape[0], dtype))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            if steps is not None and is_of_integers(tiling):
                with np.load(integers) as held:
                    quantized = QuantizedWeight(
                        held["values"], held["scale"], Quantization(**steps)
                    )
                call = layer_of_integers(x, layer.problem, quantized, None, tiling, cpu)
            else:
                operand = x
                if steps is not None:
                    operand = builder.emit(operators.fake_quantize(x, Quantization(**steps)))
                call = (
                    sparse_layer(operand, array, layer, tiling)
                    if family.is_sparse
                    else dense_layer(operand, array, layer, tiling, cpu)
                )
            result = builder.emit_output(operators.with_epilogue(call, bias=bias))
        builder.emit_func_output(result)
    build_module(builder.get(), library, cpu)


@functools.lru_cache(maxsize=1)
def _read(path: str) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = np.load(path)
    return weight


@one_at_a_time
def layer_parts(
    mod: tvm.IRModule, lookups: Lookups, setting: Setting, keep_float32: Collection[str] = ()
) -> list[Part]:
    """Return a part for each structure of the layers, the most time-consuming first.

    Parameters
    ----------
    mod : IRModule
        The model, from `tvm_sparse.passes.pipeline.canonical`.
    lookups : Lookups
        Gives the lanes that were measured.
    setting : Setting
        The setting of the run.
    keep_float32 : collection of str
        The names of layers that stay in float32.
    """
    cpu = setting.cpu
    lanes = lookups.lanes_for(token_network(mod, cpu))
    own_cpu = replace(cpu, token_lanes=lanes or cpu.token_lanes)
    counts: collections.Counter[str] = collections.Counter()
    layers: dict[str, ConstantLayer] = {}
    for own in constant_layers(mod, own_cpu, keep_float32):
        if own.steps is not None:
            continue  # the cost model chooses the kernel of a layer that reads words
        counts[layer_key(own.layer)] += 1
        layers.setdefault(layer_key(own.layer), own)
    plans = {
        key: kernel_candidates(own.layer, cpu, setting.hopeless) for key, own in layers.items()
    }
    seconds = {key: counts[key] * plans[key][0].seconds for key in layers}
    mean = float(np.mean(list(seconds.values()))) if seconds else 0.0
    found: list[Part] = []
    for key in sorted(layers, key=lambda key: -seconds[key]):
        layer, weight = layers[key].layer, layers[key].weight
        chosen = plans[key][: setting.share(seconds[key], mean) + 1]
        folder, quantized = setting.own_folder(), layers[key].quantized
        kernel = LayerSubject.write(layer, weight, folder, setting.target, cpu, quantized)
        task = Task(
            layer.name,
            key_on(key, cpu),
            tuple(kernel_to_fields(candidate.tiling) for candidate in chosen),
            kernel.build,
            kernel.arguments(),
        )
        found.append(Part("layers", task, counts[key]))
    return found
