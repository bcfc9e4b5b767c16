"""Helpers that scripts for DeepSparse import from ``deepsparse.utils``."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np

from tvm_sparse.compat.deepsparse.errors import InputValueError
from tvm_sparse.compat.deepsparse.models import (
    Shapes,
    example_arrays,
    input_shapes,
    model_to_path,
    set_shapes,
    with_shapes,
)
from tvm_sparse.errors import InputError
from tvm_sparse.frontends.onnx_file import read_model

__all__ = [
    "generate_random_inputs",
    "get_input_names",
    "get_output_names",
    "model_to_path",
    "override_onnx_batch_size",
    "override_onnx_input_shapes",
    "parse_input_shapes",
    "verify_outputs",
]


def generate_random_inputs(
    onnx_filepath: str | os.PathLike[str], batch_size: int | None = 1
) -> list[np.ndarray]:
    """Return random inputs of a model for a batch, in its order; their values fit the model."""
    model, _ = read_model(onnx_filepath)
    set_shapes(model, input_shapes(model, batch_size, None))
    return list(example_arrays(model).values())


def get_input_names(onnx_filepath: str | os.PathLike[str]) -> list[str]:
    """Return the names of a model's inputs, without those that are weights."""
    return [value.name for value in read_model(onnx_filepath)[0].graph.input]


def get_output_names(onnx_filepath: str | os.PathLike[str]) -> list[str]:
    """Return the names of a model's outputs."""
    return [value.name for value in read_model(onnx_filepath)[0].graph.output]


def override_onnx_batch_size(
    onnx_filepath: str | os.PathLike[str], batch_size: int
) -> AbstractContextManager[str]:
    """Give the path of a copy of a model for another batch, in a ``with`` block."""
    return with_shapes(onnx_filepath, batch_size)


def override_onnx_input_shapes(
    onnx_filepath: str | os.PathLike[str], input_shapes: Shapes
) -> AbstractContextManager[str]:
    """Give the path of a copy of a model for other shapes, in a ``with`` block."""
    return with_shapes(onnx_filepath, None, input_shapes)


def parse_input_shapes(shape_string: str | None) -> list[list[int]] | None:
    """Return the shapes in a text like ``"[1,3,224,224],[1,128]"``; None if it is empty.

    Raises
    ------
    InputError
        If the text is no such list.
    """
    if not shape_string:
        return None
    try:
        found = ast.literal_eval(f"[{shape_string}]")
        if len(found) == 1 and found[0] and isinstance(found[0][0], list):
            found = found[0]
        if all(type(size) is int and size > 0 for shape in found for size in shape):
            return [list(shape) for shape in found]
    except (SyntaxError, TypeError, ValueError, IndexError):
        pass
    raise InputError(f"input shapes {shape_string!r} are not like [1,3,224,224],[1,128]")


def verify_outputs(
    outputs: Sequence[np.ndarray],
    gt_outputs: Sequence[np.ndarray],
    atol: float = 8.0e-4,
    rtol: float = 0.0,
) -> list[float]:
    """Compare outputs with what they should be, and return the largest difference of each.

    Raises
    ------
    ValueError
        If a number, a shape or a value differs.
    """
    if len(outputs) != len(gt_outputs):
        raise InputValueError(f"{len(outputs)} outputs, and there should be {len(gt_outputs)}")
    differences = []
    for number, (found, expected) in enumerate(zip(outputs, gt_outputs, strict=True)):
        if found.shape != expected.shape:
            raise InputValueError(
                f"output {number}: shape {found.shape}, and it should be {expected.shape}"
            )
        largest = float(np.abs(found - expected).max(initial=0.0))
        differences.append(largest)
        if not np.allclose(found, expected, rtol=rtol, atol=atol):
            raise InputValueError(f"output {number}: differs by up to {largest:g}")
    return differences
