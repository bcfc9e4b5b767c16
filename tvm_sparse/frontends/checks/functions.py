"""How many nodes a model has once its functions are written out where they are called.

Functions that call one another may make a file of some hundred bytes a model without end.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from tvm_sparse.errors import ModelError

MOST_NODES = 100_000
"""Nodes of a model; the largest models that were compiled have some thousands."""

_Functions = Mapping[tuple[str, str], onnx.FunctionProto]


def check_functions(model: onnx.ModelProto) -> None:
    """Check that functions do not call themselves, and how much they make together.

    Raises
    ------
    ModelError
        If a function does, or is named like an operator of ONNX, or the model has more than
        `MOST_NODES` nodes.
    """
    functions = {(function.domain, function.name): function for function in model.functions}
    for domain, name in functions:
        if domain in ("", "ai.onnx") and onnx.defs.has(name):
            raise ModelError(
                f"not a valid model: its function {name!r} has the name of an operator of ONNX, so "
                "that engines differ in what they compute; give it another domain"
            )
    sizes: dict[tuple[str, str], int | None] = {}
    _size(model.graph, functions, sizes)


def _size(
    graph: onnx.GraphProto | onnx.FunctionProto,
    functions: _Functions,
    sizes: dict[tuple[str, str], int | None],
) -> int:
    """Return the number of nodes of a graph; `sizes` has those of functions, None while counted."""
    count = 0
    for node in graph.node:
        called = (node.domain, node.op_type)
        if called in functions:
            if called not in sizes:
                sizes[called] = None
                sizes[called] = _size(functions[called], functions, sizes)
            size = sizes[called]
            if size is None:
                raise ModelError(f"not a valid model: its function {node.op_type!r} calls itself")
            count += size
        else:
            count += 1
        for attribute in node.attribute:
            if attribute.HasField("g"):
                count += _size(attribute.g, functions, sizes)
    if count > MOST_NODES:
        raise ModelError(
            f"the model has more than {MOST_NODES} nodes where its functions are written out"
        )
    return count
