"""DynamicQuantizeLSTM(x, w, r, scales) => LSTM(x, dequantized w, dequantized r)

The operator of com.microsoft stores its weights in 8 bits, transposed, and rounds the inputs and
states of every step to 8 bits. The LSTM keeps them in float32, which is more exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tvm_sparse.frontends.onnx_file import tensor_array

_OPERATOR = "DynamicQuantizeLSTM"
_WEIGHTS = {1: (8, 9), 2: (10, 11)}
"""The operands that hold weights: those that hold their scale and their zero point."""


def dequantize_recurrent(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a model whose quantized LSTMs of constant weights are ordinary ones.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, which stays as it is.
    folder : Path
        The folder that the locations of external weights are relative to.
    """
    if not any(node.op_type == _OPERATOR for node in _nodes(model.graph)):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    taken = {name for node in _nodes(changed.graph) for name in (*node.input, *node.output)}
    _dequantize(changed.graph, {}, folder, taken)
    return changed


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from _nodes(inner)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _dequantize(
    graph: onnx.GraphProto, outside: Mapping[str, TensorProto], folder: Path, taken: set[str]
) -> None:
    constants = dict(outside)
    for value in graph.input:
        constants.pop(value.name, None)
    constants |= {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for inner in _subgraphs(node):
            _dequantize(inner, constants, folder, taken)
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
        if node.op_type != _OPERATOR or node.domain != "com.microsoft":
            continue
        inputs = [*node.input, *[""] * (12 - len(node.input))]
        operands = [name for weight, others in _WEIGHTS.items() for name in (weight, *others)]
        if not all(inputs[i] in constants for i in operands if inputs[i]):
            continue
        for position, (scale, zero_point) in _WEIGHTS.items():
            values, scales, zeros = (
                tensor_array(constants[inputs[i]], folder) if inputs[i] else np.zeros(1, "uint8")
                for i in (position, scale, zero_point)
            )
            name = _free(f"{inputs[position]}_dequantized", taken)
            array = _dequantized(values, scales, zeros)
            graph.initializer.append(numpy_helper.from_array(array, name))
            inputs[position] = name
        node.op_type, node.domain = "LSTM", ""
        del node.input[:]
        node.input.extend(inputs[:8])


def _dequantized(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """Return the weight ``(directions, gates * hidden, columns)`` of an LSTM.

    `values` are ``(directions, columns, gates * hidden)``; `scale` and `zero_point` have a number
    for each direction, or for each row of the result.
    """
    directions, _, rows = values.shape

    def per_row(numbers: np.ndarray) -> np.ndarray:
        numbers = numbers.reshape(-1, 1, numbers.size // directions or 1)
        return np.broadcast_to(numbers, (directions, 1, rows))

    exact = values.astype("int32") - per_row(zero_point.astype("int32"))
    weight = exact.astype("float32") * per_row(scale.astype("float32"))
    return np.ascontiguousarray(weight.transpose(0, 2, 1))


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
