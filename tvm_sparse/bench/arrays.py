"""The arrays that engines are run on, and the difference of their outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx

from tvm_sparse.specs import TensorSpec


def graph_inputs(model: onnx.ModelProto) -> list[TensorSpec]:
    """Return the inputs of a model of static shapes."""
    return [
        TensorSpec(
            value.name,
            tuple(d.dim_value for d in value.type.tensor_type.shape.dim),
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in model.graph.input
    ]


def random_inputs(specs: Iterable[TensorSpec], seed: int = 0) -> dict[str, np.ndarray]:
    """Return seeded inputs: normal floats, token ids below 1000, masks of ones, types 0 and 1."""
    rng = np.random.default_rng(seed)
    inputs: dict[str, np.ndarray] = {}
    value: np.ndarray
    for spec in specs:
        if np.dtype(spec.dtype).kind == "f":
            value = rng.standard_normal(spec.static_shape)
        elif "mask" in spec.name or spec.dtype == "bool":
            value = np.ones(spec.static_shape)
        else:
            value = rng.integers(0, 2 if "type" in spec.name else 1000, spec.static_shape)
        inputs[spec.name] = value.astype(spec.dtype)
    return inputs


def read_arrays(path: Path) -> list[np.ndarray]:
    """Return the arrays of a file of `numpy.savez` in their order."""
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


def output_error(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the largest difference as a share of the largest expected value, of the worst output.

    The result is infinite if the number of outputs or a shape differs, and NaN if a value is NaN.
    """
    if [a.shape for a in actual] != [e.shape for e in expected]:
        return float("inf")
    errors = [
        np.abs(a - e.astype(np.float64)).max(initial=0.0) / (np.abs(e).max(initial=0.0) or 1.0)
        for a, e in zip(actual, expected, strict=True)
    ]
    return float(np.max(errors))
