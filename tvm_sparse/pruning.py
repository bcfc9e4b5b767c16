"""One-shot magnitude pruning of an ONNX model: sets the smallest weights to zero.

It serves to try things out: without training afterwards, accuracy suffers.

It prunes the constant weights of ``MatMul``, ``Gemm`` and ``Conv``. As is common practice, layers
stay dense whose pruning would save little time and cost much accuracy: the layers nearest to an
input or an output (unless the model has no other layers), convolutions in groups such as depthwise
ones, and weights of less than 1024 elements. Embeddings are never changed, even if a layer shares
their weight.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from tvm_sparse.errors import InputError, ModelError, border
from tvm_sparse.files import check_writable
from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.frontends.onnx_file import read_model, write_model

SCOPES = ("uniform", "global", "block")
"""The names of the ways to choose the weights that become zero; see `prune`."""

BLOCK = 4
"""Input channels of one output channel that the scope "block" prunes together."""

_SMALLEST = 1024
"""Elements of the smallest weight that is pruned."""

_WEIGHTED = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class PrunedWeight:
    """One weight after pruning.

    Attributes
    ----------
    layer : str
        The name of the node that uses the weight.
    name : str
        The name of the weight.
    size, zeros : int
        The number of its elements, and of its zeros after pruning.
    kept : str
        Why it was left dense; empty if it was pruned.
    """

    layer: str
    name: str
    size: int
    zeros: int
    kept: str


@dataclass(frozen=True)
class _Layer:
    """A node with a constant weight."""

    node: str
    weight: str
    inputs_first: bool


def prune(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    sparsity: float,
    scope: str = "uniform",
) -> tuple[PrunedWeight, ...]:
    """Write a pruned copy of a model.

    Parameters
    ----------
    model : str or PathLike
        The ONNX file; it is only read.
    out : str or PathLike
        The file to write, whole or not at all.
    sparsity : float
        Share of the pruned weights that becomes zero, from 0 to below 1.
    scope : str
        ``"uniform"``: every weight gets that sparsity. ``"global"``: the smallest values of all
        weights together. ``"block"``: as uniform, but blocks of four input channels of an output
        channel go together, by the sum of their magnitudes.

    Returns
    -------
    tuple of PrunedWeight
        Each constant weight once, in the order of the graph.

    Raises
    ------
    ModelError
        If the model cannot be read.
    OutputError
        If the copy cannot be written, or would replace a file of the model.
    InputError
        If `sparsity` or `scope` has another value.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must be at least 0 and below 1, got {sparsity}")
    if scope not in SCOPES:
        raise InputError(f"unknown scope {scope!r}; choose one of {', '.join(SCOPES)}")
    read = ModelFiles(Path(model))
    check_writable(Path(out), read=read)
    proto, folder = read_model(model)
    with border(ModelError, f"{model}: its weights cannot be read"):
        external_data_helper.load_external_data_for_model(proto, str(folder))
    _lift_weights(proto.graph)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    layers = list(_layers(proto.graph, tensors))
    kept = _kept_dense(proto.graph, layers, tensors)
    values = {layer.weight: numpy_helper.to_array(tensors[layer.weight]).copy() for layer in layers}
    pruned = {name: array for name, array in values.items() if name not in kept}
    if scope == "global":
        _prune_smallest(list(pruned.values()), sparsity)
    for layer in layers:
        if layer.weight in pruned:
            array = values[layer.weight]
            if scope == "uniform":
                _prune_smallest([array], sparsity)
            elif scope == "block":
                _prune_blocks(array.T if layer.inputs_first else array, sparsity)
            tensors[layer.weight].CopyFrom(numpy_helper.from_array(array, layer.weight))
    write_model(proto, Path(out), read)
    return tuple(
        PrunedWeight(
            layer.node,
            layer.weight,
            values[layer.weight].size,
            int(np.count_nonzero(values[layer.weight] == 0)),
            kept.get(layer.weight, ""),
        )
        for layer in layers
    )


def _lift_weights(graph: onnx.GraphProto) -> None:
    """Make initializers of the weights that some exporters write as ``Constant`` nodes."""
    weights = {
        node.input[1] for node in graph.node if node.op_type in _WEIGHTED and len(node.input) > 1
    }
    for node in [*graph.node]:
        if node.op_type != "Constant" or node.output[0] not in weights:
            continue
        if node.attribute[0].HasField("t"):
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            graph.node.remove(node)


def _layers(graph: onnx.GraphProto, tensors: Mapping[str, onnx.TensorProto]) -> Iterator[_Layer]:
    """Yield the nodes with a constant weight; a shared weight belongs to its first user."""
    # The constants behind the transposes that exporters leave: name, and whether it is transposed.
    source = {name: (name, False) for name, tensor in tensors.items() if _is_float(tensor)}
    seen: set[str] = set()
    for node in graph.node:
        if node.op_type in ("Transpose", "Identity") and node.input[0] in source:
            name, transposed = source[node.input[0]]
            source[node.output[0]] = name, transposed != (node.op_type == "Transpose")
        elif node.op_type in _WEIGHTED and node.input[1] in source:
            name, transposed = source[node.input[1]]
            outputs_first = node.op_type == "Conv" or any(
                attribute.name == "transB" and attribute.i for attribute in node.attribute
            )
            if name not in seen and (len(tensors[name].dims) == 2 or node.op_type == "Conv"):
                seen.add(name)
                yield _Layer(node.name, name, transposed == outputs_first)


def _is_float(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.DOUBLE,
    )


def _kept_dense(
    graph: onnx.GraphProto, layers: list[_Layer], tensors: Mapping[str, onnx.TensorProto]
) -> dict[str, str]:
    """Return the weights that stay dense, each with the reason."""
    kept = {
        name: "an embedding shares it"
        for node in graph.node
        if node.op_type == "Gather"
        for name in node.input[:1]
        if name in tensors
    }
    for node in graph.node:
        if node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute):
            kept.setdefault(node.input[1], "its convolution is in groups")
    for layer in layers:
        size = int(np.prod(tensors[layer.weight].dims))
        if size < _SMALLEST:
            kept.setdefault(layer.weight, f"only {size} elements")
    outermost = _outermost(graph, {layer.node for layer in layers}, set(tensors))
    ends = {layer.weight: outermost[layer.node] for layer in layers if layer.node in outermost}
    if all(layer.weight in kept or layer.weight in ends for layer in layers):
        return kept
    return {**ends, **kept}


def _outermost(graph: onnx.GraphProto, layers: set[str], constants: set[str]) -> dict[str, str]:
    """Return the nodes that come before or after all other layers on every path."""
    outermost: dict[str, str] = {}
    learned: set[str] = set()  # values that depend on a layer or an embedding
    for node in graph.node:
        embeds = node.op_type == "Gather" and node.input[0] in constants
        before = any(name in learned for name in node.input)
        if node.name in layers and not before:
            outermost[node.name] = "nearest to the input"
        if node.name in layers or before or embeds:
            learned.update(node.output)
    needed: set[str] = set()  # values that a layer depends on
    for node in reversed(graph.node):
        after = any(name in needed for name in node.output)
        if node.name in layers and not after:
            outermost[node.name] = "nearest to the output"
        if node.name in layers or after:
            needed.update(node.input)
    return outermost


def _prune_smallest(arrays: list[np.ndarray], sparsity: float) -> None:
    """Set the smallest values of all arrays together to zero, in place; NaNs count as large."""
    if not arrays:
        return
    magnitudes = np.concatenate([np.abs(array).ravel() for array in arrays])
    count = round(sparsity * magnitudes.size)
    smallest = np.zeros(magnitudes.size, bool)
    smallest[np.argpartition(magnitudes, max(count - 1, 0))[:count]] = True
    start = 0
    for array in arrays:
        array[smallest[start : start + array.size].reshape(array.shape)] = 0
        start += array.size


def _prune_blocks(array: np.ndarray, sparsity: float) -> None:
    """Set the smallest blocks of a weight, outputs first, to zero, in place."""
    rows = array.reshape(len(array), -1) if array.ndim != 2 else array
    width = rows.shape[1]
    padded = np.pad(np.abs(rows), ((0, 0), (0, -width % BLOCK)))
    blocks = padded.reshape(len(rows), -1, BLOCK).sum(axis=2)
    count = round(sparsity * blocks.size)
    smallest = np.zeros(blocks.size, bool)
    smallest[np.argpartition(blocks, max(count - 1, 0), axis=None)[:count]] = True
    mask = np.repeat(smallest.reshape(blocks.shape), BLOCK, axis=1)[:, :width]
    rows[mask] = 0
