"""Functions are written out where they are called: those of the model, and some of the standard.

ONNX defines some of its operators by functions. They are written out if nobody converts them.
"""

from __future__ import annotations

import onnx
import onnx.inliner

from tvm_sparse.frontends.canonical.light import with_light_weights
from tvm_sparse.frontends.checks.equations import check_equations
from tvm_sparse.frontends.checks.operands import check_operands

WRITTEN_OUT = frozenset(
    {
        "BlackmanWindow", "CausalConvWithState", "Celu", "CenterCropPad", "HammingWindow",
        "HannWindow", "LinearAttention", "NegativeLogLikelihoodLoss",
        "SoftmaxCrossEntropyLoss", "SwiGLU", "Swish",
    }
)  # fmt: skip
"""The operators of the standard that are always written out."""

_OPERANDS_OF_ATTENTION = 4
"""Queries, keys, values and a mask; what follows is a cache, or lengths."""


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without functions of its own, and without those operators."""
    if model.functions:
        model = with_light_weights(model, onnx.inliner.inline_local_functions)
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        check_equations(model.graph)  # a caller may have given one, or no operand
        check_operands(model.graph, opset)
    names = {node.op_type for node in model.graph.node if _is_written_out(node)}
    if not names:
        return model
    every = [("", name) for name in sorted(WRITTEN_OUT | names)]

    def write_out(light: onnx.ModelProto) -> onnx.ModelProto:
        # Some functions depend on the types of what they read.
        light.graph.value_info.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in light.graph.initializer
        )
        light = onnx.shape_inference.infer_shapes(light)
        _write_defaults(light)
        return onnx.inliner.inline_selected_functions(light, every, inline_schema_functions=True)

    try:
        written = with_light_weights(model, write_out)
    except RuntimeError:  # a type is not known; who converts the node then says that it cannot
        return model
    del written.graph.value_info[:]
    for node in written.graph.node:
        node.name = node.name or f"{node.op_type}_of_{node.output[0]}"
    return written


def _write_defaults(model: onnx.ModelProto) -> None:
    """Give nodes that are written out all attributes: the inliner leaves defaults open."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    for node in model.graph.node:
        if not _is_written_out(node):
            continue
        given = {attribute.name for attribute in node.attribute}
        schema = onnx.defs.get_schema(node.op_type, opset)
        for name, attribute in schema.attributes.items():
            if name not in given and attribute.default_value.name:
                node.attribute.append(attribute.default_value)


def _is_written_out(node: onnx.NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Attention":
        return any(node.input[_OPERANDS_OF_ATTENTION:]) or any(node.output[1:])
    return node.op_type in WRITTEN_OUT
