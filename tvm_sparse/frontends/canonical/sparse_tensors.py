"""Sparse initializers and sparse constants become dense ones, whose zeros the passes see."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.onnx_file import tensor_array


def make_dense(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Make every sparse tensor of a model dense, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    folder : Path
        The folder that the locations of external weights are relative to.

    Raises
    ------
    ModelError
        If a sparse tensor names values outside of its shape.
    """
    _make_dense(model.graph, folder)
    return model


def _make_dense(graph: onnx.GraphProto, folder: Path) -> None:
    for sparse in graph.sparse_initializer:
        graph.initializer.append(dense(sparse, sparse.values.name, folder))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            for branch in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _make_dense(branch, folder)
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                tensor = dense(attribute.sparse_tensor, node.output[0], folder)
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def dense(sparse: onnx.SparseTensorProto, name: str, folder: Path) -> onnx.TensorProto:
    """Return a sparse tensor as a dense one called `name`.

    Its indices are positions in the flat array, `(values,)`, or along each axis,
    `(values, axes)`.

    Raises
    ------
    ModelError
        If the indices do not fit the shape.
    """
    values, indices = tensor_array(sparse.values, folder), tensor_array(sparse.indices, folder)
    shape = tuple(sparse.dims)
    flat = np.zeros(math.prod(shape), values.dtype)
    try:
        if indices.ndim == 2:
            indices = np.ravel_multi_index(tuple(indices.T), shape)
        if len(indices) and (indices.min() < 0 or len(indices) != len(values)):
            raise ValueError("negative, or another number of them")
        flat[indices] = values
    except (ValueError, IndexError) as error:
        raise ModelError(f"sparse tensor {name!r}: its indices are wrong: {error}") from None
    return numpy_helper.from_array(flat.reshape(shape), name)
