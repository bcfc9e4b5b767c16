"""Reading and writing ONNX files: checks and external data.

The user's file is only read. Weights in external files stay there until `tensor_array`.
"""

from __future__ import annotations

import math
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import external_data_helper, helper, numpy_helper

from tvm_sparse.errors import ModelError, border, reason
from tvm_sparse.files import open_regular, replacing, writable_target
from tvm_sparse.frontends.checkpoints import as_onnx, is_checkpoint
from tvm_sparse.frontends.checks.file import check_file
from tvm_sparse.frontends.other_formats import other_format


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
        if what := other_format(path):
            raise ModelError(f"{path}: no ONNX model, but {what}")
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
            weights = external_data_path(tensor, path.parent)
            _check_inside(weights, path, tensor.name)
            if _stored_bytes(tensor) <= _SMALL:
                _embed(tensor, weights)
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
    """Yield the tensors of a model whose values lie in another file."""
    for part in (model.graph, *model.functions):
        for graph in graphs_of(part):
            for tensor in _tensors(graph):
                if external_data_helper.uses_external_data(tensor):
                    yield tensor


def _tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of a graph, but for those of the graphs in it."""
    sparse: list[onnx.SparseTensorProto] = []
    if isinstance(graph, onnx.GraphProto):
        yield from graph.initializer
        sparse += graph.sparse_initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)
        sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()
        sparse += attribute.sparse_tensors
    yield from (part for tensor in sparse for part in (tensor.values, tensor.indices))


def graphs_of(graph: Any) -> Iterator[Any]:
    """Yield a graph, or the body of a function, and the subgraphs of its nodes, however deep."""
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
    stored = _stored_bytes(tensor)
    # ONNX Runtime takes a length of 0 for one that is left out, too.
    if info.length and info.length != stored:
        raise ModelError(
            f"{where} is described wrong: its length is {info.length}, and its shape and type need "
            f"{stored} bytes"
        )
    if path.stat().st_size < (info.offset or 0) + stored:
        raise ModelError(f"{where} is too short; the file is truncated")
    return path


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    """Return how many bytes the values of a tensor take in another file."""
    if tensor.data_type == onnx.TensorProto.STRING:
        raise ModelError(f"weight {tensor.name!r} is text, which cannot lie in another file")
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    bits = _BITS.get(name) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return -(-math.prod(tensor.dims) * bits // 8)


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
    if onnx.TensorProto.DataType.Name(tensor.data_type) in _BITS or 0 in shape:
        _embed(tensor, path)
        return numpy_helper.to_array(tensor)
    return np.memmap(path, dtype, "r", info.offset or 0, shape or (1,)).reshape(shape)


_SMALL = 1024
"""Bytes of a tensor that is read with the model, so that numbers and sizes are there for all."""

_BITS = {
    "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6,
}  # fmt: skip
"""Bits of the element types that ONNX stores in less than a byte; some are newer than some onnx."""


def _embed(tensor: onnx.TensorProto, path: Path) -> None:
    """Read the values of a tensor from their file into the tensor, in place."""
    info = external_data_helper.ExternalDataInfo(tensor)
    with open_regular(path, ModelError) as file:
        file.seek(info.offset or 0)
        tensor.raw_data = file.read(_stored_bytes(tensor))
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


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
