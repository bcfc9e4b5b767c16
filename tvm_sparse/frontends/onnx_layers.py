"""The layers of an ONNX file: the nodes that multiply by constant weights, whatever their operator.

A weight may reach its node through nodes that compute with constants only, such as `Transpose`,
`Reshape`, `Cast` or `DequantizeLinear`. Zeros are counted in the tensor that the file holds; a
quantized weight is zero where it equals its zero point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tvm_sparse.formats.blocks import misfit, unpacked
from tvm_sparse.formats.density import count_nonzeros
from tvm_sparse.formats.quantization import along
from tvm_sparse.frontends.few_bits import OPERATOR as _FEW_BITS
from tvm_sparse.frontends.few_bits import sizes_of
from tvm_sparse.frontends.nodes import needed, reads
from tvm_sparse.frontends.onnx_file import tensor_array

_EITHER = (0, 1)
_RECURRENT = (1, 2)
_WEIGHTS: dict[str, tuple[int, ...]] = {
    "Attention": (1,),  # of com.microsoft; the standard's has no constant operand
    "Conv": (1,),
    "ConvInteger": (1,),
    "ConvTranspose": (1,),
    "DeformConv": (1,),
    "DynamicQuantizeLSTM": _RECURRENT,
    "DynamicQuantizeMatMul": (1,),
    "Einsum": (0, 1, 2, 3),
    "EmbedLayerNormalization": (2, 3, 4),
    "FusedConv": (1,),
    "FusedGemm": (0, 1),
    "FusedMatMul": _EITHER,
    "GRU": _RECURRENT,
    "Gather": (0,),
    "Gemm": _EITHER,
    "LSTM": _RECURRENT,
    "MatMul": _EITHER,
    "MatMulInteger": _EITHER,
    "MatMulIntegerToFloat": _EITHER,
    _FEW_BITS: (1,),
    "MoE": (2, 4, 6),
    "QAttention": (1,),
    "QGemm": (3,),
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
    "RNN": _RECURRENT,
}
"""Operators with weights: the operands that are weights if they are constants."""

_DEQUANTIZE = {
    "ConvInteger": 3,
    "DynamicQuantizeMatMul": 3,
    "MatMulInteger": 3,
    "MatMulIntegerToFloat": 5,
    "QAttention": 7,
    "QGemm": 5,
    "QLinearConv": 5,
    "QLinearMatMul": 5,
}
"""Operators that read the zero point of their weight: its operand."""

_FIRST_AXIS = ("ConvInteger", "QLinearConv")
"""Those whose zero points lie along the first axis of the weight, and not along the last one."""

_Constant = tuple[onnx.TensorProto | onnx.SparseTensorProto, Any]
"""A tensor of the file, and the zero point that is subtracted from it (None without one)."""


@dataclass(frozen=True)
class FileLayer:
    """A node of an ONNX file that multiplies by a constant weight.

    Attributes
    ----------
    name, operator : str
        The name of the node, and its operator in ONNX.
    shape : tuple of int
        The shape of the weight as the file holds it.
    nonzeros : int
        How many of its values are not zero.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    nonzeros: int

    def to_json(self) -> dict[str, Any]:
        """Return the layer as an attribute of a module holds it."""
        return {
            "layer": self.name,
            "operator": self.operator,
            "shape": list(self.shape),
            "nonzeros": self.nonzeros,
        }


def file_layers(model: onnx.ModelProto, folder: Path) -> list[FileLayer]:
    """Return the layers of a model, subgraphs included, in the order of the file.

    Nodes of constants only are no layers, and neither are nodes that no output depends on.

    Parameters
    ----------
    model : onnx.ModelProto
        A model that `tvm_sparse.frontends.onnx_file.read_model` read.
    folder : Path
        The folder that the locations of external weights are relative to.
    """
    counted: dict[tuple[int, bytes], int] = {}
    found = []
    weighted = list(_weighted(model.graph, {}, folder))  # keeps the tensors, whose ids are keys
    for node, tensor, zero_point in weighted:
        key = id(tensor), b"" if zero_point is None else zero_point.tobytes()
        is_few_bits, shape = node.op_type == _FEW_BITS, tuple(tensor.dims)
        if key not in counted:
            count = _nonzero_codes if is_few_bits else _nonzeros
            counted[key] = count(tensor, zero_point, folder, node)
        if is_few_bits:
            shape = sizes_of(node)[:2]
        found.append(FileLayer(node.name, node.op_type, shape, counted[key]))
    return found


def _weighted(
    graph: onnx.GraphProto, outside: Mapping[str, _Constant], folder: Path
) -> Iterator[tuple[onnx.NodeProto, Any, np.ndarray | None]]:
    """Yield each node with one of its weights, and the zero point of that weight.

    Those of weights of few bits are packed, one for each block.
    """
    constants: dict[str, _Constant] = dict(outside)
    for value in graph.input:
        constants.pop(value.name, None)
    constants |= {tensor.name: (tensor, None) for tensor in graph.initializer}
    constants |= {tensor.values.name: (tensor, None) for tensor in graph.sparse_initializer}
    used = _needed(graph)
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name in ("value", "sparse_value"):
                    sparse = attribute.HasField("sparse_tensor")
                    tensor = attribute.sparse_tensor if sparse else attribute.t
                    constants[node.output[0]] = tensor, None
            continue
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _weighted(inner, constants, folder)
        reads = [name for name in node.input if name]
        if reads and all(name in constants for name in reads):
            read = [constants[name] for name in reads]
            largest = max(read, key=lambda constant: math.prod(constant[0].dims))
            if node.op_type == "Concat" and all(map(_is_weight, read)):
                # Slices of one tensor, such as gates in another order, are that tensor.
                parts = {id(tensor): tensor for tensor, _ in read}.values()
                if len(parts) > 1:
                    largest = _joined([tensor_array(part, folder) for part in parts]), None
            if node.op_type == "DequantizeLinear":
                dims = tuple(largest[0].dims)
                largest = largest[0], _zero_point(node, 2, constants, dims)
            constants |= dict.fromkeys(node.output, largest)
            continue
        if used.isdisjoint(node.output):
            continue
        for position in _WEIGHTS.get(node.op_type, ()):
            name = node.input[position] if position < len(node.input) else ""
            if name not in constants or len(constants[name][0].dims) < 2:
                continue
            tensor, zero_point = constants[name]
            if node.op_type == "Gather" and not _is_float(tensor) and zero_point is None:
                continue  # a table of numbers, such as the shape of something
            if node.op_type == _FEW_BITS and len(node.input) > 3 and node.input[3] in constants:
                zero_point = tensor_array(constants[node.input[3]][0], folder)
            if node.op_type in _DEQUANTIZE:
                of_zeros = _DEQUANTIZE[node.op_type]
                zero_point = _zero_point(node, of_zeros, constants, tuple(tensor.dims))
            yield node, tensor, zero_point


def _is_weight(constant: _Constant) -> bool:
    tensor, zero_point = constant
    is_dense = isinstance(tensor, onnx.TensorProto) and _is_float(tensor)
    return is_dense and zero_point is None and len(tensor.dims) > 1


def _joined(arrays: Sequence[np.ndarray]) -> onnx.TensorProto:
    """Return the weights that a Concat joins, such as those of both directions, as one tensor."""
    if len({array.shape for array in arrays}) == 1:
        return numpy_helper.from_array(np.stack(arrays))
    return numpy_helper.from_array(np.concatenate([array.reshape(-1, 1) for array in arrays]))


def _needed(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the tensors that an output of the graph depends on."""
    outputs = {value.name for value in graph.output}
    return outputs.union(*map(reads, needed(graph.node, outputs)))


def _is_float(tensor: Any) -> bool:
    dense = tensor.values if isinstance(tensor, onnx.SparseTensorProto) else tensor
    dtype = onnx.helper.tensor_dtype_to_np_dtype(dense.data_type)
    return dtype.kind not in "biuSOU"


def _zero_point(
    node: onnx.NodeProto,
    position: int,
    constants: Mapping[str, _Constant],
    shape: Sequence[int],
) -> np.ndarray | None:
    """Return the zero points that a node reads, as they are subtracted from a weight of some rank.

    None says that it reads none, or others than one, or one for each entry of an axis.
    """
    name = node.input[position] if position < len(node.input) else ""
    if name not in constants or isinstance(constants[name][0], onnx.SparseTensorProto):
        return None
    tensor = constants[name][0]
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    values = numpy_helper.to_array(tensor)
    if np.unique(values).size == 1:
        return values.reshape(-1)[:1]
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    is_first = node.op_type in _FIRST_AXIS or bool(numbers.get("transB", 0))
    axis = 0 if is_first else -1
    if node.op_type == "DequantizeLinear":
        axis = numbers.get("axis", 1)
    is_along = values.ndim == 1 and -len(shape) <= axis < len(shape) and values.size == shape[axis]
    return along(values, axis, len(shape)) if is_along else None


def _nonzeros(
    tensor: Any, zero_point: np.ndarray | None, folder: Path, _node: onnx.NodeProto
) -> int:
    if isinstance(tensor, onnx.SparseTensorProto):
        return int(np.count_nonzero(tensor_array(tensor.values, folder)))
    values = tensor_array(tensor, folder)
    if zero_point is None:
        return count_nonzeros(values)
    return int(np.count_nonzero(values != zero_point))


def _nonzero_codes(
    tensor: onnx.TensorProto, zeros: np.ndarray | None, folder: Path, node: onnx.NodeProto
) -> int:
    """Return how many codes of a weight of few bits stand for no zero."""
    channels, taps, bits, block = sizes = sizes_of(node)
    packed = tensor_array(tensor, folder)
    scales = np.broadcast_to(np.float32(1), max(channels * -(-taps // max(block, 1)), 0))
    if misfit(sizes, packed, scales, zeros):
        return int(np.count_nonzero(packed))  # its converter says what is wrong
    codes = unpacked(packed.reshape(channels, -1), bits)[:, :taps]
    if zeros is None:
        return int(np.count_nonzero(codes != 1 << (bits - 1)))
    if zeros.dtype == np.uint8:
        zeros = unpacked(zeros.reshape(channels, -1), bits)
    points = zeros.reshape(channels, -1)[:, : -(-taps // block)]
    return int(np.count_nonzero(codes != np.repeat(points, block, axis=1)[:, :taps]))
