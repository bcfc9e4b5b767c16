"""Attention sinks, written out: a softmax over scores and one more for each head (gpt-oss).

The maximum may be taken off before, which changes nothing::

    all = Concat(scores, sinks); weights = Softmax(all - ReduceMax(all))[..., :-1]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import onnx
from numpy.typing import NDArray
from onnx import helper

_RANK = 4

Arrays: TypeAlias = "Callable[[str], NDArray[Any] | None]"
"""Returns a constant, or None for a value that is none."""


def without_sinks(
    name: str, makers: Mapping[str, onnx.NodeProto], array_of: Arrays
) -> tuple[str, tuple[float, ...]]:
    """Return the scores among the inputs of a softmax, and the sinks of the heads, if any.

    Parameters
    ----------
    name : str
        What the softmax reads.
    makers : mapping of str to NodeProto
        The nodes that compute values.
    array_of : callable
        Returns a constant.
    """
    node = makers.get(name)
    if node is not None and node.op_type == "Sub":
        most = makers.get(node.input[1])
        if most is None or most.op_type != "ReduceMax" or most.input[0] != node.input[0]:
            return name, ()
        node = makers.get(node.input[0])
    if node is None or node.op_type != "Concat" or len(node.input) != 2:
        return name, ()
    sinks = array_of(node.input[1])
    axis = next(helper.get_attribute_value(a) for a in node.attribute if a.name == "axis")
    if sinks is None or sinks.ndim != _RANK or axis not in (-1, _RANK - 1):
        return name, ()
    batch, _, _, columns = sinks.shape
    of_heads = sinks[:1, :, :1, :1]
    if batch != 1 or columns != 1 or not bool((sinks == of_heads).all()):
        return name, ()
    return node.input[0], tuple(float(value) for value in of_heads.ravel())


def drops_last(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], array_of: Arrays
) -> bool:
    """Return whether a node leaves out the last column, and nothing else."""
    if node.op_type != "Slice":
        return False
    before, after, starts = shapes[node.input[0]], shapes[node.output[0]], array_of(node.input[1])
    is_shorter = (*before[:-1], before[-1] - 1) == after
    return is_shorter and starts is not None and not starts.any()
