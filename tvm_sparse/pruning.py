"""One-shot magnitude pruning of an ONNX model: sets the smallest weights to zero.

It serves to try things out: without training afterwards, accuracy suffers.

It prunes the constant weights of ``MatMul``, ``Gemm``, ``Conv`` and ``MatMulNBits``, of which a
pruned code becomes its zero point. As is common practice, layers
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
from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.formats.patterns import BLOCKS, neighbours, zero_neighbours, zero_smallest
from tvm_sparse.frontends import few_bits
from tvm_sparse.frontends.few_bits import with_zeros
from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.frontends.onnx_file import read_model, write_model

SCOPES = ("uniform", "global")
"""The names of the ways to choose the weights that become zero; see `prune`."""

PATTERNS = (*BLOCKS, "2:4", "4:16", "5:16")
"""How many outputs and inputs become zero together, or stay among neighbours; see `prune`."""

_SMALLEST = 1024
"""Elements of the smallest weight that is pruned."""

_WEIGHTED = ("MatMul", "Gemm", "Conv")

_QUANTIZED = ("ConvInteger", "DequantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul")


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
    codes: BlockCodes | None = None


def prune(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    sparsity: float | None = None,
    scope: str = "uniform",
    pattern: str = "1x1",
) -> tuple[PrunedWeight, ...]:
    """Write a pruned copy of a model.

    Parameters
    ----------
    model : str or PathLike
        The ONNX file; it is only read.
    out : str or PathLike
        The file to write, whole or not at all.
    sparsity : float, optional
        Share of the pruned weights that becomes zero, from 0 to below 1. A pattern such as 2:4 says
        it by itself.
    scope : str
        ``"uniform"``: every weight gets that sparsity. ``"global"``: the smallest values of all
        weights together.
    pattern : str
        ``"1x1"``: single values. ``"1x4"``: blocks of four consecutive inputs of an output, as
        kernels of 8 bits read them. ``"4x1"``: blocks of four consecutive outputs of an input. The
        smallest blocks go, by the mean of their magnitudes; those of a convolution are blocks of
        channels, for each place of the window. ``"2:4"``: of every four consecutive inputs of an
        output, the two smallest; likewise ``"4:16"``, ``"5:16"`` and other numbers up to 64.

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
        If `sparsity`, `scope` or `pattern` has another value, or if the weights of the model are
        quantized.
    """
    kept_of = neighbours(pattern)
    share = _checked(sparsity, scope, pattern)
    read = ModelFiles(Path(model))
    check_writable(Path(out), read=read)
    proto, folder = read_model(model)
    with border(ModelError, f"{model}: its weights cannot be read"):
        external_data_helper.load_external_data_for_model(proto, str(folder))
    _lift_weights(proto.graph)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    layers = list(_layers(proto.graph, tensors))
    kept = _kept_dense(proto.graph, layers, tensors)
    values = {
        layer.weight: numpy_helper.to_array(tensors[layer.weight]).copy()
        if layer.codes is None
        else layer.codes.to_dense()
        for layer in layers
    }
    pruned = {name: array for name, array in values.items() if name not in kept}
    if not layers and any(node.op_type in _QUANTIZED for node in proto.graph.node):
        raise InputError(
            f"{model}: its weights are quantized; prune the model of floats, then quantize it by "
            "`tvm-sparse quantize`"
        )
    matrices = {
        layer.weight: _matrix(pruned[layer.weight], layer.inputs_first)
        for layer in layers
        if layer.weight in pruned
    }
    groups = [list(matrices.values())] if scope == "global" else [[m] for m in matrices.values()]
    for group in groups:
        if kept_of is None:
            zero_smallest(group, share, pattern)
            continue
        for matrix in group:
            zero_neighbours(matrix, *kept_of)
    codes = {layer.weight: layer.codes for layer in layers if layer.codes is not None}
    for name, array in pruned.items():
        tensor = numpy_helper.from_array(array, name)
        if name in codes:
            tensor = with_zeros(tensors[name], codes[name], array == 0)
        tensors[name].CopyFrom(tensor)
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


def _checked(sparsity: float | None, scope: str, pattern: str) -> float:
    """Return the share of zeros that the arguments of `prune` ask for."""
    kept_of = neighbours(pattern)
    if scope not in SCOPES:
        raise InputError(f"unknown scope {scope!r}; choose one of {', '.join(SCOPES)}")
    if pattern not in BLOCKS and kept_of is None:
        raise InputError(f"unknown pattern {pattern!r}; choose one of {', '.join(PATTERNS)}")
    if kept_of is not None:
        share = 1 - kept_of[0] / kept_of[1]
        if scope == "global" or sparsity not in (None, share):
            raise InputError(
                f"pattern {pattern} sets {share:.0%} of every weight to zero: leave out --sparsity "
                "and --scope"
            )
        return share
    if sparsity is None:
        raise InputError(f"pattern {pattern} needs a sparsity: the share of zeros, such as 0.9")
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must be at least 0 and below 1, got {sparsity}")
    return sparsity


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
        elif node.op_type == few_bits.OPERATOR and node.input[1] not in seen:
            codes = few_bits.codes_of(node, tensors)
            if codes is not None:
                seen.add(node.input[1])
                yield _Layer(node.name, node.input[1], False, codes)


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
        if layer.codes is not None:
            size = layer.codes.codes.size
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


def _matrix(array: np.ndarray, inputs_first: bool) -> np.ndarray:
    """Return a view of a weight: outputs, places of the window if it has one, and inputs."""
    if array.ndim == 2:
        return (array.T if inputs_first else array)[:, None]
    return np.moveaxis(array, 1, -1)
