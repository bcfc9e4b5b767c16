"""Reductions over axes of tensors that may hold infinities."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from tvm_sparse.frontends.converters.node import Node

IMAGE_AXES = [2, 3]
"""The axes of a global pooling of images, for which the passes have kernels."""


def extreme(node: Node) -> Any:
    """Convert ReduceMax and ReduceMin.

    TVM's reductions begin at the largest finite number, so the maximum over values that all are
    minus infinity would be finite. Here they begin at infinity. TVM has none of bool.
    """
    x, rank, keep = node.inputs[0], len(node.shape(0)), node.attributes.get("keepdims", 1)
    if node.dtype(0) == "bool":
        node.inputs[0] = node.emit(relax.op.astype(x, "uint8"))
        return relax.op.astype(node.emit(node.by_tvm()), "bool")
    if not node.dtype(0).startswith("float"):
        return node.by_tvm()
    axes = _axes(node, rank)
    if not axes:
        return x
    if rank == 4 and axes == IMAGE_AXES:
        return node.by_tvm()
    largest = node.op_type == "ReduceMax"
    nothing = _of_nothing(node, axes, -np.inf if largest else np.inf)
    if nothing is not None:
        return nothing
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


def mean(node: Node) -> Any:
    """Convert ReduceMean; ONNX Runtime's mean of nothing is 0, and TVM refuses to compute it."""
    axes = _axes(node, len(node.shape(0)))
    nothing = _of_nothing(node, axes, 0) if node.dtype(0).startswith("float") else None
    return node.by_tvm() if nothing is None else nothing


def _of_nothing(node: Node, axes: list[int], value: float) -> relax.Expr | None:
    """Return `value` for each result of a reduction over no values, None if there are some."""
    shape, keep = node.shape(0), node.attributes.get("keepdims", 1)
    if all(shape[axis] for axis in axes):
        return None
    result = [1 if i in axes else size for i, size in enumerate(shape) if keep or i not in axes]
    return relax.const(np.full(result, value, node.dtype(0)), node.dtype(0))


def log_sum_exp(node: Node) -> Any:
    """Convert ReduceLogSumExp: ``log(sum(exp(x - m))) + m`` with the maximum m.

    TVM subtracts an infinite maximum from itself, which is NaN. Here m is 0 in its place: the
    result is minus infinity where all values are, and infinity where one value is.
    """
    x, rank, keep = node.inputs[0], len(node.shape(0)), node.attributes.get("keepdims", 1)
    axes = _axes(node, rank)
    if not axes:
        return x
    nothing = _of_nothing(node, axes, -np.inf)
    if nothing is not None:
        return nothing
    largest = node.emit(relax.op.max(x, axes, keepdims=True))
    zero = relax.const(0, node.dtype(0))
    shift = node.emit(relax.op.where(node.emit(relax.op.isinf(largest)), zero, largest))
    powers = node.emit(relax.op.exp(node.emit(relax.op.subtract(x, shift))))
    total = node.emit(relax.op.log(node.emit(relax.op.sum(powers, axes, keepdims=True))))
    result = node.emit(relax.op.add(total, shift))
    return result if keep else relax.op.squeeze(result, axes)


def _axes(node: Node, rank: int) -> list[int]:
    """Return the axes that a node reduces, from 0 on; none if it returns its input as it is."""
    empty = node.attributes.get("noop_with_empty_axes", 0)
    given: Any = node.attributes.get("axes", ())
    if node.opset >= FIRST_WITH_INPUT:
        values = node.constant(1, "axes")
        given = () if values is None else values.tolist()
    if not len(given) and empty:
        return []
    return sorted(int(axis) % rank for axis in given) or list(range(rank))


FIRST_WITH_INPUT = 18
"""The first opset in which these reductions have their axes as an input."""
