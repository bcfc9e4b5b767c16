"""Operands that hold nothing are dropped."""

from __future__ import annotations

import math

import onnx


def drop_empty_operands(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop empty constants from concatenations, and trailing empty names of inputs, in place.

    Exporters leave both: padding that turns out to be none, and optional inputs that are not given.
    """
    graph = model.graph
    empty = {tensor.name for tensor in graph.initializer if math.prod(tensor.dims) == 0}
    for node in graph.node:
        if node.op_type == "Constant" and any(
            attribute.HasField("t") and math.prod(attribute.t.dims) == 0
            for attribute in node.attribute
        ):
            empty.update(node.output)
    for node in graph.node:
        inputs = list(node.input)
        if node.op_type == "Concat" and node.domain in ("", "ai.onnx"):
            inputs = [name for name in inputs if name not in empty] or inputs[:1]
        while inputs and not inputs[-1] and not node.op_type.startswith("Optional"):
            inputs.pop()
        if inputs != list(node.input):
            del node.input[:]
            node.input.extend(inputs)
    return model
