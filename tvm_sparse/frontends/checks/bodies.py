"""Whether the graphs inside of a node take and give as many values as the node does."""

from __future__ import annotations

import onnx

from tvm_sparse.errors import ModelError

_GRAPHS = {
    "If": ("then_branch", "else_branch"),
    "Loop": ("body",),
    "Scan": ("body",),
    "SequenceMap": ("body",),
}
"""The attributes that hold the graphs of an operator."""

_LOOP_OWN = 2
"""What the body of a Loop takes first: the iteration, and whether to go on."""


def check_bodies(node: onnx.NodeProto, what: str, opset: int) -> None:
    """Check the graphs of If, Loop, Scan and SequenceMap; `what` names the node in messages.

    Raises
    ------
    ModelError
        If the numbers of values differ.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type not in _GRAPHS:
        return
    takes, gives = len(node.input), len(node.output)
    if node.op_type == "If":
        takes = 0
    elif node.op_type == "Loop":
        takes, gives = max(takes, _LOOP_OWN), gives + 1
    elif node.op_type == "Scan":
        takes -= opset == 8  # the first one are the lengths, then
    graphs = {attribute.name: attribute.g for attribute in node.attribute}
    for name in _GRAPHS[node.op_type]:
        graph = graphs.get(name, onnx.GraphProto())
        found = len(graph.input), len(graph.output)
        if name not in graphs or found != (takes, gives):
            raise ModelError(
                f"{what} needs a graph {name!r} of {takes} inputs and {gives} outputs, and it has "
                + (f"{found[0]} and {found[1]}" if name in graphs else "none")
            )
