"""Rounds the weights of linear layers to int4, and nothing else: decoding is the bytes of weights.

``MatMul(x, w) => MatMulNBits(x, codes, scales)``, where a block of inputs of an output shares a
scale. Activations stay floats, so that no calibration is needed.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import external_data_helper, helper, numpy_helper

from tvm_sparse.decoders import QuantizedRows, quantize_rows
from tvm_sparse.errors import InputError, ModelError, border
from tvm_sparse.files import check_writable
from tvm_sparse.frontends.checkpoints import is_checkpoint, open_checkpoint
from tvm_sparse.frontends.model_files import ModelFiles
from tvm_sparse.frontends.onnx_file import read_model, tensor_array, write_model

_MICROSOFT = "com.microsoft"

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


@dataclass(frozen=True)
class RoundedWeight:
    """A weight after rounding.

    Attributes
    ----------
    node : str
        The name of the node.
    relative_error : float
        The root of the mean square of the change, as a share of that of the weight.
    zeros : float
        The share of codes that mean 0.
    """

    node: str
    relative_error: float
    zeros: float


@dataclass(frozen=True)
class Rounded:
    """A model after rounding.

    Attributes
    ----------
    layers : tuple of RoundedWeight
        The nodes whose weights are int4 now; empty for a checkpoint.
    kept : tuple of str
        The names of products with a constant weight that stay as they are.
    bytes_before, bytes_after : int
        The sizes of the files.
    """

    layers: tuple[RoundedWeight, ...]
    kept: tuple[str, ...]
    bytes_before: int
    bytes_after: int


def round_weights(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    group: int = 32,
    *,
    exclude: Collection[str] = (),
) -> Rounded:
    """Write a copy of a model whose linear layers have weights of int4.

    The value of the largest magnitude of a group is -8 of its scale, and zeros stay zeros.

    Parameters
    ----------
    model : str or PathLike
        An ONNX file, a GGUF file, or a folder in Hugging Face's layout; it is only read. Of the
        last two, all matrices of floats but the embeddings are rounded.
    out : str or PathLike
        The ONNX file to write, whole or not at all.
    group : int
        Inputs of an output that share a scale: a power of two from 16 on.
    exclude : collection of str
        Names of nodes that stay in float.

    Raises
    ------
    ModelError
        If the model cannot be read, or has no linear layer of floats.
    InputError
        If `group` is another number, or `exclude` does not fit the model.
    OutputError
        If the copy cannot be written, or would replace a file of the model.
    """
    model, out = Path(model), Path(out)
    read = ModelFiles(model)
    check_writable(out, read=read)
    if group < 16 or group & (group - 1):
        raise InputError(f"groups of {group}: a group is a power of two from 16 on")
    before = sum(path.stat().st_size for path in read if path.is_file())
    if is_checkpoint(model):
        if exclude:
            raise InputError("exclude= names nodes of an ONNX file, and this is a checkpoint")
        layers: list[RoundedWeight] = []
        kept: list[str] = []
        open_checkpoint(model).write(out, group)
    else:
        proto, folder = read_model(model)
        layers, kept = _round(proto, folder, group, frozenset(exclude), model)
        with border(ModelError, f"{model}: its weights cannot be read"):
            external_data_helper.load_external_data_for_model(proto, str(folder))
        write_model(proto, out, read)
    after = sum(path.stat().st_size for path in ModelFiles(out))
    return Rounded(tuple(layers), tuple(kept), before, after)


def _round(
    proto: onnx.ModelProto, folder: Path, group: int, exclude: frozenset[str], model: Path
) -> tuple[list[RoundedWeight], list[str]]:
    """Replace the products of floats of the main graph, in place."""
    graph = proto.graph
    if lacking := exclude - {node.name for node in graph.node}:
        raise InputError(f"{model} has no node {min(lacking)!r} to exclude")
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    layers: list[RoundedWeight] = []
    kept: list[str] = []
    made: dict[str, QuantizedRows] = {}
    for node in graph.node:
        weight = tensors.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if weight is None:
            continue
        is_linear = node.op_type == "MatMul" and weight.data_type in _FLOATS
        if not is_linear or len(weight.dims) != 2 or node.name in exclude:
            kept.append(node.name)
            continue
        if weight.name not in made:
            made[weight.name] = _rounded(weight, folder, group, model)
        rounded = made[weight.name]
        layers.append(_rounded_weight(node.name, tensor_array(weight, folder).T, rounded))
        _replace(node, rounded, weight.data_type)
    if not layers:
        raise ModelError(f"{model}: there is no MatMul with a constant weight of floats to round")
    _swap_initializers(graph, made, tensors)
    if not any(opset.domain == _MICROSOFT for opset in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    return layers, kept


def _rounded(weight: onnx.TensorProto, folder: Path, group: int, model: Path) -> QuantizedRows:
    where = f"{model}: the weight {weight.name!r} cannot be rounded"
    try:
        with border(ModelError, where):
            return quantize_rows(tensor_array(weight, folder).T, group)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def _rounded_weight(node: str, weight: np.ndarray, rounded: QuantizedRows) -> RoundedWeight:
    size = float(np.linalg.norm(weight))
    change = float(np.linalg.norm(rounded.dense() - weight))
    codes = rounded.unpacked().reshape(rounded.rows, -1)[:, : rounded.columns]
    return RoundedWeight(node, change / (size or 1.0), float(np.mean(codes == 8)))


def _operands(weight: str, rounded: QuantizedRows) -> tuple[str, str]:
    """Return the names that ONNX Runtime's quantizer gives to codes and scales of a weight."""
    return f"{weight}_Q4G{rounded.block}", f"{weight}_scales"


def _replace(node: onnx.NodeProto, rounded: QuantizedRows, data_type: int) -> None:
    """Make a product of int4 of a product of floats."""
    inputs = [node.input[0], *_operands(node.input[1], rounded)]
    # The level 4 lets ONNX Runtime round activations of float32 to 8 bits, as others do.
    level = 4 if data_type == onnx.TensorProto.FLOAT else 0
    node.CopyFrom(
        helper.make_node(
            "MatMulNBits",
            inputs,
            list(node.output),
            node.name,
            domain=_MICROSOFT,
            K=rounded.columns,
            N=rounded.rows,
            bits=4,
            block_size=rounded.block,
            accuracy_level=level,
        )
    )


def _swap_initializers(
    graph: onnx.GraphProto,
    made: dict[str, QuantizedRows],
    tensors: dict[str, onnx.TensorProto],
) -> None:
    """Add the codes and scales, and take away the floats that nobody needs any more."""
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    for weight, rounded in made.items():
        codes, scales = _operands(weight, rounded)
        kind = helper.tensor_dtype_to_np_dtype(tensors[weight].data_type)
        graph.initializer.append(numpy_helper.from_array(rounded.codes, codes))
        values = rounded.scales.astype(kind)
        graph.initializer.append(numpy_helper.from_array(values, scales))
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in made.keys() - used:
            del graph.initializer[index]
