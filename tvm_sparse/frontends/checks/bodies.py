"""Whether the graphs inside of a node take and give as many values as the node does."""

from __future__ import annotations

import onnx

from tvm_sparse.errors import ModelError

_LOOP_OWN = 2
"""What the body of a Loop takes first: the iteration, and whether to go on."""


def check_bodies(node: onnx.NodeProto, what: str, opset: int) -> None:
    """Check the graphs of If, Loop, Scan and SequenceMap; `what` names the node in messages.

    Raises
    ------
    ModelError
        If the numbers of values differ.
    """
    if node.domain not in ("", "ai.onnx"):
        return
    takes, gives = len(node.input), len(node.output)
    if node.op_type == "If":
        takes = 0
    elif node.op_type == "Loop":
        takes, gives = max(takes, _LOOP_OWN), gives + 1
    elif node.op_type == "Scan":
        takes -= opset == 8  # the first one are the lengths, then
    elif node.op_type != "SequenceMap":
        return
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found = len(attribute.g.input), len(attribute.g.output)
            if found != (takes, gives):
                raise ModelError(
                    f"{what} needs a graph {attribute.name!r} of {takes} inputs and {gives} "
                    f"outputs, and it has {found[0]} and {found[1]}"
                )
