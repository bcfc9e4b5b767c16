"""Reading and writing ONNX files: checks, external data, and sizes for dynamic dimensions.

The user's file is only read. Weights in external files stay there until `tensor_array`.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from tvm_sparse.errors import InputError, ModelError, border, reason
from tvm_sparse.files import replacing, writable_target
from tvm_sparse.frontends.checkpoints import as_onnx, is_checkpoint
from tvm_sparse.frontends.checks.file import check_file
from tvm_sparse.frontends.element_types import check_is_array
from tvm_sparse.specs import unknown_input

_UNKNOWN = ("dynamic", "none", "unknown")
"""What exporters call dimensions that they know nothing of; two of them need not be equal."""


def read_model(path: str | os.PathLike[str]) -> tuple[onnx.ModelProto, Path]:
    """Read an ONNX file, leaving external weights where they are.

    Parameters
    ----------
    path : str or PathLike
        The file, or a folder that holds a ``model.onnx``, or a checkpoint that becomes an ONNX
        file (`tvm_sparse.frontends.checkpoints`).

    Returns
    -------
    model : onnx.ModelProto
        The model; initializers that are also graph inputs are only initializers, and every
        node has a name.
    folder : Path
        The folder that the locations of external weights are relative to.

    Raises
    ------
    ModelError
        If there is no such file, or it is not a whole ONNX model.
    """
    path = Path(path)
    if is_checkpoint(path):
        path = as_onnx(path)
    if path.is_dir():
        path = path / "model.onnx"
    try:
        kind = path.stat().st_mode
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise ModelError(f"{path}: a device, not an ONNX model")
        with warnings.catch_warnings(action="ignore"):  # on formats that are experimental
            model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ModelError:
        raise
    # The parsers of ONNX's formats raise errors of many kinds.
    except Exception as error:
        raise ModelError(
            f"{path}: not an ONNX model, or a truncated one: {reason(error)}"
        ) from error
    with border(ModelError, f"{path}: not a valid ONNX model"):
        check_file(model, path)
        _normalize(model.graph)
        for tensor in external_tensors(model):
            _check_inside(external_data_path(tensor, path.parent), path, tensor.name)
    return model, path.parent


def _normalize(graph: onnx.GraphProto) -> None:
    # ONNX lets a caller override an initializer that is also an input, which would forbid
    # folding and packing it; such files come from exporters that list every weight as an input.
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    for value in graph.input:
        # A compiled model always gets every input.
        if value.type.HasField("optional_type"):
            plain = onnx.TypeProto()
            plain.CopyFrom(value.type.optional_type.elem_type)
            value.type.CopyFrom(plain)
    for node in graph.node:
        node.name = node.name or f"{node.op_type}_of_{node.output[0]}"


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of the graph and its subgraphs whose values lie in another file."""
    for graph in graphs_of(model.graph):
        attributes = (a.t for node in graph.node for a in node.attribute if a.HasField("t"))
        for tensor in (*graph.initializer, *attributes):
            if external_data_helper.uses_external_data(tensor):
                yield tensor


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the subgraphs of its nodes, however deep."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from graphs_of(inner)


def external_data_path(tensor: onnx.TensorProto, folder: Path) -> Path:
    """Return the file that holds the values of `tensor`.

    Raises
    ------
    ModelError
        If the file is missing, too short, or outside of `folder`.
    """
    with border(
        ModelError, f"weight {tensor.name!r} lies in another file, which is described wrong"
    ):
        info = external_data_helper.ExternalDataInfo(tensor)
        path = folder / info.location
    where = f"weight {tensor.name!r} lies in {path}, which"
    if Path(info.location).is_absolute() or ".." in Path(info.location).parts:
        raise ModelError(f"{where} is outside of the model's folder")
    if not path.is_file():
        raise ModelError(f"{where} does not exist; keep it next to the model")
    if path.stat().st_size < (info.offset or 0) + (info.length or 0):
        raise ModelError(f"{where} is too short; the file is truncated")
    return path


def _check_inside(weights: Path, model: Path, name: str) -> None:
    """Refuse external weights that links lead out of the model's folder.

    A model may be a link itself, into a folder that holds its weights, too: caches of downloaded
    models are built like that.
    """
    folders = (model.parent.resolve(), model.resolve().parent)
    if not any(weights.resolve().is_relative_to(folder) for folder in folders):
        raise ModelError(
            f"weight {name!r} lies in {weights}, which is a link out of the model's folder; copy "
            "the file there"
        )


def tensor_array(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """Return the values of a tensor; external ones are mapped from their file, not read."""
    if not external_data_helper.uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    path = external_data_path(tensor, folder)
    info = external_data_helper.ExternalDataInfo(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    if tensor.data_type in _PACKED or 0 in shape:
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        return numpy_helper.to_array(tensor)
    return np.memmap(path, dtype, "r", info.offset or 0, shape or (1,)).reshape(shape)


# Element types that ONNX stores two to a byte.
_PACKED = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1)


def bind_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None) -> None:
    """Give every dynamic dimension of the graph's inputs its size, in place.

    A named dimension (``batch``, ``sequence``) that one input's shape fixes is fixed in all.

    Parameters
    ----------
    model : onnx.ModelProto
        The model whose ``graph.input`` is changed.
    shapes : mapping of str to sequence of int, or None
        Shape of every input that has a dynamic dimension which no other input fixes.

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
    sizes: dict[str, int] = {}
    for name, given in (shapes or {}).items():
        if name not in inputs:
            raise unknown_input(name, inputs)
        _bind(inputs[name], tuple(given), sizes)
    for name, value in inputs.items():
        check_is_array(value)
        if not value.type.tensor_type.HasField("shape"):
            raise InputError(f"input {name!r}: its shape is unknown; {_remedy(name, 2)}")
        dimensions = value.type.tensor_type.shape.dim
        for axis, dimension in enumerate(dimensions):
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]
            is_empty = dimension.HasField("dim_value") and dimension.dim_value == 0
            if dimension.dim_value < 1 and not is_empty:
                called = f" ({dimension.dim_param!r})" if dimension.dim_param else ""
                raise InputError(
                    f"input {name!r}: dimension {axis}{called} is dynamic; "
                    f"{_remedy(name, len(dimensions))}"
                )
    # The exporter's notes on dynamic shapes would contradict the sizes.
    del model.graph.value_info[:]
    for value in model.graph.output:
        # Others have no type, or that of a sequence. The rank is no matter of sizes.
        for dimension in value.type.tensor_type.shape.dim if _has_shape(value) else ():
            dimension.Clear()


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


def _remedy(name: str, rank: int) -> str:
    example = (1, 128, 128, 128)[:rank] if rank < 4 else (1, 3, 224, 224, 1, 1)[:rank]
    text = ",".join(str(size) for size in example)
    return f"give the shape, e.g. --shape {name}={text}, with names for sizes that stay open"


def write_model(model: onnx.ModelProto, path: Path, read: Iterable[Path] = ()) -> None:
    """Write a model as one file, or as a file with its weights beside it if over 2 GB.

    The model file appears whole or not at all.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    path : Path
        The file to write.
    read : iterable of Path
        Files from which the model is made; neither of the new ones may replace any of them.

    Raises
    ------
    OutputError
        If `path` cannot be written.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    external = size > _LARGEST_EMBEDDED
    weights = path.with_name(f"{path.name}.data")
    if external:
        weights = writable_target(weights, read=read)
    with replacing(path, read=read) as temporary:
        onnx.save(model, str(temporary), save_as_external_data=external, location=weights.name)
        if external:
            temporary.with_name(weights.name).replace(weights)


# Protobuf's limit is 2 GB for a message; the graph itself needs room too.
_LARGEST_EMBEDDED = 1_900_000_000
