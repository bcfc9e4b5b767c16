"""Extremes over axes, of which infinities are part."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import te, tirx

from tvm_sparse.frontends.converters.node import Node

IMAGE_AXES = [2, 3]
"""The axes of a global pooling of images, for which the passes have kernels."""


def extreme(node: Node) -> Any:
    """Convert ReduceMax and ReduceMin.

    TVM's reductions begin at the largest finite number, so the maximum over values that all are
    minus infinity would be finite. Here they begin at infinity.
    """
    x, dtype, rank = node.inputs[0], node.dtype(0), len(node.shape(0))
    if not dtype.startswith("float"):
        return node.by_tvm()
    keep, empty = node.attributes.get("keepdims", 1), node.attributes.get("noop_with_empty_axes", 0)
    given: Any = node.attributes.get("axes", ())
    if node.opset >= FIRST_WITH_INPUT:
        values = node.constant(1, "axes")
        given = () if values is None else values.tolist()
    if not len(given) and empty:
        return x
    axes = sorted(int(axis) % rank for axis in given) or list(range(rank))
    if rank == 4 and axes == IMAGE_AXES:
        return node.by_tvm()
    largest = node.op_type == "ReduceMax"
    identity = -np.inf if largest else np.inf
    larger = tirx.max if largest else tirx.min
    reducer = te.comm_reducer(
        lambda a, b: larger(a, b), lambda dtype: tirx.const(identity, dtype), name="extreme"
    )

    def body(tensor: te.Tensor) -> te.Tensor:
        loops = [te.reduce_axis((0, tensor.shape[axis])) for axis in axes]
        kept = [axis for axis in range(rank) if axis not in axes]
        shape = [1 if i in axes else tensor.shape[i] for i in range(rank) if keep or i in kept]

        def value(*indices: Any) -> Any:
            at = dict(zip(range(rank) if keep else kept, indices, strict=True))
            at |= dict(zip(axes, (loop.var for loop in loops), strict=True))
            return reducer(tensor(*(at[axis] for axis in range(rank))), axis=loops)

        return te.compute(shape, value, name="extreme")

    return node.builder.call_te(body, x, primfunc_name_hint=node.op_type.lower())


FIRST_WITH_INPUT = 18
"""The first opset whose ReduceMax has its axes as an input."""
