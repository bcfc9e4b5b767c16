"""Indices that are constants lie in the range that the ONNX standard gives them.

Compiled code checks indices that are known at run time only
(`tvm_sparse.passes.canonicalize.check_indices`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_sparse.frontends.checks.node import CheckedNode

_Range = tuple[int, "np.ndarray | int", "np.ndarray | int"]
"""The input that holds indices, the least of them, and how many there are from 0 on."""


def check_indices(node: CheckedNode) -> None:
    """Check the constant indices of a node.

    Raises
    ------
    ValueError
        If an index is out of range.
    """
    if node.op_type not in _RANGES:
        return
    found = _RANGES[node.op_type](node)
    if found is None:
        return
    position, least, extent = found
    indices = node.constant(position)
    if indices is None or not indices.size:
        return
    wrong = (indices < least) | (indices >= extent)
    if wrong.any():
        index = int(indices[wrong].flat[0])
        most = int(np.broadcast_to(np.asarray(extent) - 1, indices.shape)[wrong].flat[0])
        lowest = int(np.broadcast_to(least, indices.shape)[wrong].flat[0])
        raise ValueError(
            f"its input {node.inputs[position]!r} has the index {index}, which is not from "
            f"{lowest} to {most}"
        )


def _along_an_axis(node: CheckedNode) -> _Range | None:
    shape = node.shape(0)
    if not shape:
        return None
    extent = shape[node.attributes.get("axis", 0)]
    return 1, -extent, extent


def _coordinates(node: CheckedNode) -> _Range | None:
    shape, indices = node.shape(0), node.shape(1)
    if shape is None or not indices:
        return None
    batch = node.attributes.get("batch_dims", 0)
    extents = np.array(shape[batch : batch + indices[-1]])
    return (1, -extents, extents) if len(extents) == indices[-1] else None


def _batches(node: CheckedNode) -> _Range | None:
    shape = node.shape(0)
    return (2, 0, shape[0]) if shape else None


def _lengths(node: CheckedNode) -> _Range | None:
    shape = node.shape(0)
    if not shape or len(shape) != 3:
        return None
    steps = shape[1 if node.attributes.get("layout", 0) else 0]
    return 4, 0, steps + 1


_RANGES: dict[str, Callable[[CheckedNode], _Range | None]] = {
    "Gather": _along_an_axis,
    "GatherElements": _along_an_axis,
    "Scatter": _along_an_axis,
    "ScatterElements": _along_an_axis,
    "GatherND": _coordinates,
    "ScatterND": _coordinates,
    "RoiAlign": _batches,
    "LSTM": _lengths,
    "GRU": _lengths,
    "RNN": _lengths,
}
