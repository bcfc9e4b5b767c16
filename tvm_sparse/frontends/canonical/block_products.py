"""MatMul(x, DequantizeLinear(codes, scales, zeros)) => MatMulNBits(x, codes, scales, zeros)

The codes are constants of 4 or 8 bits with a scale for each block of inputs, so that a kernel of
few bits can read them. Other operators, and other blocks than MatMulNBits knows, get floats:
`dequantize_constants` computes what is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.formats.blocks import in_bytes
from tvm_sparse.frontends.canonical.subgraphs import names_read_within
from tvm_sparse.frontends.onnx_file import tensor_array

_BITS = {
    TensorProto.INT4: (4, True),
    TensorProto.UINT4: (4, False),
    TensorProto.INT8: (8, True),
    TensorProto.UINT8: (8, False),
}
"""The types of codes: their bits, and whether they are signed."""
_BLOCKS = (16, 32, 64, 128, 256)
_DOMAIN = "com.microsoft"


def multiply_blocks(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Replace products with constants that are dequantized in blocks, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    folder : Path
        The folder that the locations of external weights are relative to.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = {node.output[0]: node for node in graph.node if _is_weight(node, constants)}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for position, name in enumerate(node.input):
            readers[name].append((node, position))
    outputs = {value.name for value in graph.output} | set(names_read_within(graph))
    replaced: list[onnx.NodeProto] = []
    for name, weight in weights.items():
        uses = readers[name]
        if name in outputs or not all(n.op_type == "MatMul" and i == 1 for n, i in uses):
            continue
        names, attributes = _packed(weight, constants, graph, folder)
        for node, _ in uses:
            product = helper.make_node(
                "MatMulNBits",
                [node.input[0], *names],
                list(node.output),
                node.name,
                domain=_DOMAIN,
                **attributes,
            )
            node.CopyFrom(product)
        replaced.append(weight)
    if not replaced:
        return model
    for weight in replaced:
        graph.node.remove(weight)
    used = {name for node in graph.node for name in node.input} | outputs
    codes = {name for weight in replaced for name in weight.input}
    kept = [t for t in graph.initializer if t.name in used or t.name not in codes]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    if not any(opset.domain == _DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return model


def _is_weight(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Return whether a node makes floats of a matrix ``(K, N)`` with blocks along K."""
    if node.op_type != "DequantizeLinear" or node.domain not in ("", "ai.onnx"):
        return False
    if not all(name in constants for name in node.input if name):
        return False
    codes, scales, attributes = constants[node.input[0]], constants[node.input[1]], _of(node)
    is_matrix = len(codes.dims) == 2 and attributes.get("axis", 1) in (0, -2)
    has_blocks = attributes.get("block_size", 0) in _BLOCKS
    is_float = scales.data_type == TensorProto.FLOAT
    return is_matrix and has_blocks and is_float and codes.data_type in _BITS


def _packed(
    node: onnx.NodeProto, constants: Mapping[str, TensorProto], graph: onnx.GraphProto, folder: Path
) -> tuple[list[str], dict[str, int]]:
    """Add the operands of a MatMulNBits to a graph; return their names, and its attributes."""
    bits, is_signed = _BITS[constants[node.input[0]].data_type]
    block, middle = int(_of(node)["block_size"]), 1 << (bits - 1)
    values, scales, *zeros = (tensor_array(constants[name], folder) for name in node.input if name)
    shift = middle if is_signed else 0
    k, n = values.shape
    blocks = -(-k // block)
    codes = np.zeros((n, blocks * block), np.uint8)
    codes[:, :k] = (values.astype(np.int32) + shift).T
    # Without a zero point, it is 0: the middle of signed codes, and the least unsigned one.
    points = np.full((n, blocks), shift, np.uint8)
    if zeros:
        points[:] = (zeros[0].astype(np.int32) + shift).T
    arrays = {
        "codes": in_bytes(codes, bits).reshape(n, blocks, -1),
        "scales": np.ascontiguousarray(scales.T).reshape(-1),
    }
    if (points != middle).any():
        arrays["zeros"] = in_bytes(points, bits).reshape(-1)
    names = [f"{node.output[0]}.{part}" for part in arrays]
    graph.initializer.extend(map(numpy_helper.from_array, arrays.values(), names))
    return names, {"K": k, "N": n, "bits": bits, "block_size": block}


def _of(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
