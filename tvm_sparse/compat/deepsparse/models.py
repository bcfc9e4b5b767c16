"""Which file a model is, and copies of it for another batch or other shapes of inputs.

The user's file is only read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from tvm_sparse.bench.arrays import graph_inputs, random_inputs
from tvm_sparse.errors import InputError, ModelError
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.onnx_file import read_model, write_model
from tvm_sparse.verification.inputs import UnknownInput, example_inputs

Shapes = Sequence[Sequence[int]]


def model_to_path(model: str | os.PathLike[str]) -> str:
    """Return the path of a model: that of an ONNX file, or of ``model.onnx`` in a folder.

    Raises
    ------
    ModelError
        If `model` names a model of a hub, or there is no such file.
    """
    text = os.fspath(model)
    for hub, get in (("zoo:", "sparsezoo.download"), ("hf:", "huggingface-cli download")):
        if text.startswith(hub):
            raise ModelError(
                f"{text}: models are not downloaded; get it with `{get}` and give the path of its "
                "file model.onnx"
            )
    path = Path(text)
    for found in (path / "model.onnx", path / "deployment" / "model.onnx"):
        if path.is_dir() and found.is_file():
            return str(found)
    if not path.is_file():
        raise ModelError(f"{text}: there is no such file")
    return text


def input_shapes(
    model: onnx.ModelProto, batch_size: int | None, shapes: Shapes | None
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input that a caller's arguments mean.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    batch_size : int, optional
        The first dimension of all inputs; without it, or if it is below 1, that of the model.
    shapes : sequence of sequence of int, optional
        A shape for each input in the order of the model, in place of the model's own; one alone is
        that of all inputs.

    Raises
    ------
    InputError
        If a shape has another number of dimensions, or a dimension remains unknown.
    """
    inputs = list(model.graph.input)
    given: list[Sequence[int] | None] = [*shapes] if shapes else [None]
    given = given * len(inputs) if len(given) == 1 else given
    if len(given) != len(inputs):
        names = ", ".join(repr(value.name) for value in inputs)
        raise InputError(
            f"input_shapes has {len(given)} shapes, and the model has {len(inputs)} inputs: {names}"
        )
    found: dict[str, list[int | str]] = {}
    sizes: dict[str, int] = {}
    for value, shape in zip(inputs, given, strict=True):
        declared = [d.dim_param or d.dim_value or "" for d in value.type.tensor_type.shape.dim]
        if shape is not None and len(shape) != len(declared):
            raise InputError(
                f"input {value.name!r}: the model has {len(declared)} dimensions, and input_shapes "
                f"gives {list(shape)}"
            )
        full: list[int | str] = [*(declared if shape is None else shape)]
        if (batch_size or 0) > 0 and full:
            full[0] = int(batch_size or 0)
        for name, size in zip(declared, full, strict=True):
            if isinstance(name, str) and name and isinstance(size, int):
                sizes.setdefault(name, size)
        found[value.name] = full
    result = {}
    for name, full in found.items():
        known = [sizes.get(size, 0) if isinstance(size, str) else size for size in full]
        if 0 in known:
            which = full[known.index(0)]
            raise InputError(
                f"input {name!r}: dimension {known.index(0)}{f' ({which!r})' if which else ''} is "
                f"dynamic; give input_shapes, such as [{[size or 128 for size in known]}]"
            )
        result[name] = tuple(known)
    return result


@contextlib.contextmanager
def with_shapes(
    path: str | os.PathLike[str], batch_size: int | None = None, shapes: Shapes | None = None
) -> Iterator[str]:
    """Give the path of a copy of a model whose inputs have other shapes, while a block runs.

    Parameters
    ----------
    path : str or PathLike
        The ONNX file.
    batch_size, shapes
        As for `input_shapes`.
    """
    model, folder = read_model(path)
    wanted = input_shapes(model, batch_size, shapes)
    set_shapes(model, wanted)
    with scratch_folder() as scratch:
        onnx.external_data_helper.load_external_data_for_model(model, str(folder))
        copy = scratch / Path(path).name
        write_model(model, copy)
        del model
        yield str(copy)


def set_shapes(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Replace the shapes of a model's inputs, in place; those of all other values are forgotten."""
    for value in model.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        for dimension, size in zip(dimensions, shapes[value.name], strict=True):
            dimension.Clear()
            dimension.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            for dimension in value.type.tensor_type.shape.dim:
                dimension.Clear()


def example_arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return random inputs for a model of static shapes, with values that fit it if it shows."""
    specs = graph_inputs(model)
    try:
        return example_inputs(model, specs)
    except UnknownInput:
        return random_inputs(specs)


def fits(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Return whether no fixed dimension of a model's inputs differs from the shapes."""
    return all(
        dimension.dim_value in (0, size)
        for value in model.graph.input
        for dimension, size in zip(
            value.type.tensor_type.shape.dim, shapes[value.name], strict=True
        )
    )
