"""Operands that an operator needs are there: ONNX's inference crashes at some that are left out."""

from __future__ import annotations

import onnx

from tvm_sparse.errors import ModelError

_STANDARD = ("", "ai.onnx")


def check_operands(graph: onnx.GraphProto | onnx.FunctionProto, opset: int) -> None:
    """Check the operands of a graph's nodes, and of those in the graphs in it.

    Raises
    ------
    ModelError
        If one that is needed has no name; the message names the node.
    """
    for node in graph.node:
        if node.domain in _STANDARD and "" in node.input and onnx.defs.has(node.op_type, opset, ""):
            schema = onnx.defs.get_schema(node.op_type, opset)
            if missing := left_out(node, schema):
                raise ModelError(
                    f"not a valid model: node {node.name!r} ({node.op_type}): {missing}"
                )
        for attribute in node.attribute:
            if attribute.HasField("g"):
                check_operands(attribute.g, opset)


def left_out(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> str:
    """Return which operand that is needed is left out, or ""."""
    for position, name in enumerate(node.input):
        operand = schema.inputs[min(position, len(schema.inputs) - 1)] if schema.inputs else None
        if not name and operand and operand.option != schema.FormalParameterOption.Optional:
            return f"its input {operand.name!r} (number {position}) is left out"
    return ""
