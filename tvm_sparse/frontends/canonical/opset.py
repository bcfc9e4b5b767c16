"""Old operators become those of opset 11, the oldest for which TVM's converters are written.

ONNX's version converter knows all of them. It drops that Upsample, and Resize of opset 10, count
pixels from their corners. It takes weights for undefined that are no inputs of a file of the oldest
versions of the format, which asked for that; ONNX Runtime reads such files.
"""

from __future__ import annotations

import onnx
from onnx import version_converter

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.canonical.batched_scan import WITH_BATCHES, without_batches
from tvm_sparse.frontends.canonical.light import with_light_weights

OLDEST = 11
"""The opset that older models are raised to."""

FREE_WEIGHTS = 4
"""The first version of the format in which a weight need not be an input of the graph."""

_CORNERS = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
"""How the scales of Upsample, and of Resize in opset 10, are meant."""


def raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of opset 11 or newer.

    Raises
    ------
    ModelError
        If ONNX cannot convert it.
    """
    old = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OLDEST)
    if old >= OLDEST:
        return model
    _check_operands(model.graph, old)
    try:
        raised = with_light_weights(model, _raised)
    # The converter raises errors of several kinds, without a common base.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"opset {old} cannot be converted to opset {OLDEST}: {reason}") from None
    if old == WITH_BATCHES:
        raised = without_batches(model, raised)
    for node in raised.graph.node:
        node.name = node.name or f"{node.op_type}_of_{node.output[0]}"
        if node.op_type == "Resize" and node.domain in ("", "ai.onnx"):
            node.attribute.extend(onnx.helper.make_attribute(*item) for item in _CORNERS.items())
    return raised


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    model.ir_version = max(model.ir_version, FREE_WEIGHTS)
    return version_converter.convert_version(model, OLDEST)


def _check_operands(graph: onnx.GraphProto, opset: int) -> None:
    """Refuse nodes with operands or attributes that their opset does not know.

    The version converter takes them for those of a later opset.
    """
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = {"": opset}
    for node in graph.node:
        inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        for inside in inner:
            _check_operands(inside, opset)
        is_known = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, opset, "")
        if inner or not is_known:
            continue
        try:
            onnx.checker.check_node(node, context)
        except onnx.checker.ValidationError as error:
            said = str(error).strip().splitlines()[0]
            raise ModelError(
                f"not a valid model: node {node.name!r} ({node.op_type}) of opset {opset}: {said}"
            ) from error
