"""Sizes for the dynamic dimensions of an ONNX model's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx

from tvm_sparse.errors import InputError
from tvm_sparse.frontends.element_types import check_is_array
from tvm_sparse.specs import unknown_input

_UNKNOWN = ("dynamic", "none", "unknown")
"""What exporters call dimensions that they know nothing of; two of them need not be equal."""


def bind_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None) -> None:
    """Give every dynamic dimension of the graph's inputs its size, in place.

    A named dimension (``batch``, ``sequence``) that one input's shape fixes is fixed in all, and so
    is one whose own size `shapes` gives by its name.

    Parameters
    ----------
    model : onnx.ModelProto
        The model whose ``graph.input`` is changed.
    shapes : mapping of str to sequence of int, or None
        Shape of every input that has a dynamic dimension which no other input fixes, or sizes of
        dimensions by their names.

    Raises
    ------
    InputError
        If `shapes` does not fit the model or leaves a dimension open.
    """
    inputs = {value.name: value for value in model.graph.input}
    for value in inputs.values():
        for dimension in value.type.tensor_type.shape.dim:
            if not is_symbol(dimension.dim_param):
                dimension.ClearField("dim_param")
    symbols = {
        dimension.dim_param: ""
        for value in inputs.values()
        for dimension in value.type.tensor_type.shape.dim
        if dimension.dim_param
    }
    by_input, sizes = split_shapes(shapes, inputs, symbols)
    for name, shape in by_input.items():
        _bind(inputs[name], shape, sizes)
    for name, value in inputs.items():
        check_is_array(value)
        if not value.type.tensor_type.HasField("shape"):
            raise InputError(f"input {name!r}: its shape is unknown; {_remedy(name, [0, 0])}")
        dimensions = value.type.tensor_type.shape.dim
        for axis, dimension in enumerate(dimensions):
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]
            is_empty = dimension.HasField("dim_value") and dimension.dim_value == 0
            if dimension.dim_value < 1 and not is_empty:
                called = f" ({dimension.dim_param!r})" if dimension.dim_param else ""
                raise InputError(
                    f"input {name!r}: dimension {axis}{called} is dynamic; "
                    f"{_remedy(name, [d.dim_value for d in dimensions])}"
                )
    # The exporter's notes on dynamic shapes would contradict the sizes.
    del model.graph.value_info[:]
    for value in model.graph.output:
        # Others have no type, or that of a sequence. The rank is no matter of sizes.
        for dimension in value.type.tensor_type.shape.dim if _has_shape(value) else ():
            dimension.Clear()


def split_shapes(
    shapes: Mapping[str, Any] | None, inputs: Iterable[str], symbols: Iterable[str]
) -> tuple[dict[str, tuple[Any, ...]], dict[str, int]]:
    """Return the shapes of inputs and the sizes of dimensions, both by name.

    Parameters
    ----------
    shapes : mapping, optional
        Shapes by the names of inputs, and sizes by the names of dimensions, mixed.
    inputs, symbols : iterable of str
        The inputs of a model and the names of dimensions. A name of both is that of an input.

    Raises
    ------
    InputError
        If a name is neither, or a dimension gets something else than one number from 1 on.
    """
    if shapes is not None and not isinstance(shapes, Mapping):
        first = next(iter(inputs), "x")
        raise InputError(
            f"shapes= is a dict of shapes by the names of inputs, such as {{{first!r}: (1, 128)}}; "
            f"got {type(shapes).__name__}"
        )
    inputs, symbols = list(inputs), list(symbols)
    by_input: dict[str, tuple[Any, ...]] = {}
    sizes: dict[str, int] = {}
    for name, given in (shapes or {}).items():
        is_one = isinstance(given, int) or (isinstance(given, Sequence) and len(given) == 1)
        if name in inputs:
            by_input[name] = (given,) if isinstance(given, int) else tuple(given)
        elif name not in symbols:
            raise unknown_input(name, inputs, symbols)
        else:
            size = given[0] if is_one and not isinstance(given, int) else given
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(
                    f"{name!r} is a dimension of the model's inputs, and no input: give one number "
                    f"from 1 on, as in --shape {name}=1"
                )
            sizes[name] = size
    return by_input, sizes


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")


def is_symbol(name: str) -> bool:
    """Return whether the name of a dimension stands for one size; others say it is not known."""
    return any(letter.isalpha() for letter in name) and name.lower() not in _UNKNOWN


def _bind(value: onnx.ValueInfoProto, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    dimensions = value.type.tensor_type.shape.dim
    declared = [d.dim_param or (d.dim_value if d.dim_value > 0 else "?") for d in dimensions]
    mismatch = f"input {value.name!r}: shape {shape} does not fit the model's {declared}"
    if not value.type.tensor_type.HasField("shape"):
        dimensions.extend(onnx.TensorShapeProto.Dimension() for _ in shape)
    if len(shape) != len(dimensions) or not all(isinstance(size, int) for size in shape):
        raise InputError(mismatch)
    for dimension, size in zip(dimensions, shape, strict=True):
        is_empty = dimension.HasField("dim_value") and dimension.dim_value == size == 0
        if size < 1 and not is_empty:
            raise InputError(f"input {value.name!r}: shape {shape} has a dimension below 1")
        if dimension.dim_value > 0 and dimension.dim_value != size:
            raise InputError(mismatch)
        if dimension.dim_param and sizes.setdefault(dimension.dim_param, size) != size:
            raise InputError(
                f"{mismatch}: {dimension.dim_param!r} is {sizes[dimension.dim_param]} elsewhere"
            )
        dimension.dim_value = size


def _remedy(name: str, known: Sequence[int]) -> str:
    rank = len(known)
    example = (1, 128, 128, 128)[:rank] if rank < 4 else (1, 3, 224, 224, 1, 1)[:rank]
    text = ",".join(str(size or other) for size, other in zip(known, example, strict=False))
    return f"give the shape, e.g. --shape {name}={text}, with names for sizes that stay open"
