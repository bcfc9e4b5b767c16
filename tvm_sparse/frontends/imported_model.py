"""The form into which every frontend brings a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.errors import ModelError
from tvm_sparse.specs import Fallback, TensorSpec


@dataclass(frozen=True)
class ImportedModel:
    """A model in Relax.

    Attributes
    ----------
    mod : tvm.IRModule
        Its function ``main`` takes the inputs in order; weights are constants inside.
    inputs, outputs : tuple of TensorSpec
        The inputs and outputs, by the names in the model.
    fallbacks : tuple of Fallback
        The nodes that ONNX Runtime runs.
    bounds : mapping of str to int
        The largest values of named sizes that the model has tables for.
    multiples : mapping of str to int
        The numbers that divide named sizes; others have none.
    """

    mod: tvm.IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fallbacks: tuple[Fallback, ...] = ()
    bounds: Mapping[str, int] = field(default_factory=dict)
    multiples: Mapping[str, int] = field(default_factory=dict)

    def constant_outputs(self) -> tuple[str, ...]:
        """Return the names of the outputs that depend on no input."""
        main = self.mod["main"]
        varying = set(main.params)
        values = {}
        for block in main.body.blocks:
            for binding in block.bindings:
                values[binding.var] = binding.value
                if varying.intersection(relax.analysis.free_vars(binding.value)):
                    varying.add(binding.var)
        result = values.get(main.body.body, main.body.body)
        fields = list(result) if isinstance(result, relax.Tuple) else [main.body.body]
        return tuple(
            spec.name
            for spec, field in zip(self.outputs, fields, strict=True)
            if not varying.intersection(relax.analysis.free_vars(field))
        )


def tensor_spec(name: str, ty: relax.Type) -> TensorSpec:
    """Return the spec of an input or output called `name` of Relax type `ty`.

    Raises
    ------
    ModelError
        If it is no tensor of known rank.
    """
    if not isinstance(ty, relax.TensorType) or ty.ndim < 0:
        what = (
            "a sequence" if isinstance(ty, relax.TupleType) else f"no array of known rank, but {ty}"
        )
        raise ModelError(f"{name!r} is {what}; inputs and outputs must be arrays")
    sizes = [None] * ty.ndim if ty.shape is None else ty.shape
    return TensorSpec(name, tuple(map(_dimension, sizes)), str(ty.dtype))


def _dimension(size: Any) -> int | str:
    """Return a number or the name of a size; -1 for everything else."""
    if isinstance(size, tvm.tirx.IntImm):
        return int(size)
    return str(size.name) if isinstance(size, tvm.tirx.Var) else -1
