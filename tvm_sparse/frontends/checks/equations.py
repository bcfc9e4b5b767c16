"""Equations of Einsum are checked by their grammar before any inference: ONNX's own may never end.

It does not end at ``ij,jk-`` and at ``..ij,jk``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx

from tvm_sparse.errors import ModelError, printable

_LABELS = r"[A-Za-z]*(?:\.\.\.)?[A-Za-z]*"
_EQUATION = re.compile(rf"({_LABELS}(?:,{_LABELS})*)(?:->({_LABELS}))?")


def check_equations(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Check the equations of a graph, and of the graphs in it.

    Raises
    ------
    ModelError
        If one is wrong; the message names the node.
    """
    for node in _nodes(graph):
        if node.op_type != "Einsum" or node.domain not in ("", "ai.onnx"):
            continue
        for attribute in node.attribute:
            # In a function, the caller may give it.
            if attribute.name == "equation" and not attribute.ref_attr_name:
                equation = attribute.s.decode(errors="replace")
                if wrong := _fault("".join(equation.split()), len(node.input)):
                    raise ModelError(
                        f"not a valid model: node {node.name!r} (Einsum): its equation "
                        f"'{printable(equation)}' {wrong}"
                    )


def _nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _fault(equation: str, operands: int) -> str:
    """Return what is wrong with an equation without spaces, or ""."""
    found = _EQUATION.fullmatch(equation)
    if found is None:
        return "is not like 'ij,jk->ik'"
    terms, output = found[1], (found[2] or "").replace("...", "")
    if terms.count(",") + 1 != operands:
        return f"has {terms.count(',') + 1} terms, and the node has {operands} inputs"
    if len(set(output)) < len(output) or not set(output) <= set(terms):
        return "has a result with labels that come twice, or that no term has"
    return ""
