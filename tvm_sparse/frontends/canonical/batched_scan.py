"""Scan of opset 8, which has an axis of batches, becomes one without."""

from __future__ import annotations

import onnx
from onnx import helper

from tvm_sparse.errors import ModelError

WITH_BATCHES = 8
"""The only opset whose Scan has lengths of sequences as its first operand, and a batch axis."""


def without_batches(model: onnx.ModelProto, raised: onnx.ModelProto) -> onnx.ModelProto:
    """Take the batch axis from what each Scan reads, and give it back to its results, in place.

    ONNX's version converter drops the axis from the inputs and outputs of the model instead.

    Parameters
    ----------
    model : onnx.ModelProto
        A model of opset 8.
    raised : onnx.ModelProto
        What the converter made of it; it is changed.

    Raises
    ------
    ModelError
        If a Scan has lengths of sequences, or batches of more than one sequence.
    """
    scans = {node.output[0]: node for node in model.graph.node if node.op_type == "Scan"}
    if not scans:
        return raised
    for values, given in (
        (raised.graph.input, model.graph.input),
        (raised.graph.output, model.graph.output),
    ):
        types = {value.name: value.type for value in given}
        for value in values:
            if value.name in types:
                value.type.CopyFrom(types[value.name])
    batches = {
        value.name: value.type.tensor_type.shape.dim[0].dim_value
        for value in model.graph.input
        if value.type.tensor_type.shape.dim
    }
    nodes = list(raised.graph.node)
    del raised.graph.node[:], raised.graph.value_info[:]
    for node in nodes:
        scan = scans.get(node.output[0])
        if scan is None:
            raised.graph.node.append(node)
            continue
        if scan.input[0] or any(batches.get(name, 1) != 1 for name in scan.input):
            raise ModelError(
                f"node {scan.name!r} (Scan): opset 8 is supported for one sequence of full length; "
                "export the model with a newer opset"
            )
        operands, results = list(node.input), list(node.output)
        bare = [f"{name}_of_{scan.output[0]}" for name in operands]
        del node.input[:], node.output[:]
        node.input.extend(bare)
        node.output.extend(name and f"{name}_without_batches" for name in results)
        raised.graph.node.extend(
            helper.make_node("Squeeze", [name], [new], f"{scan.name}_{new}", axes=[0])
            for name, new in zip(operands, bare, strict=True)
        )
        raised.graph.node.append(node)
        raised.graph.node.extend(
            helper.make_node("Unsqueeze", [new], [name], f"{scan.name}_{name}", axes=[0])
            for name, new in zip(results, node.output, strict=True)
            if name
        )
    return raised
