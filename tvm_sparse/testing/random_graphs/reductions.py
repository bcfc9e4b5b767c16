"""Rules along axes: reductions, softmax, and normalizations."""

from __future__ import annotations

import numpy as np

from tvm_sparse.testing.random_graphs.arithmetic import scalar
from tvm_sparse.testing.random_graphs.graph import Graph
from tvm_sparse.testing.random_graphs.run_nodes import Array, Unfit

_AXES_AS_OPERAND = {"ReduceSum": 13}
_REDUCTIONS = (
    *("ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
    *("ReduceSumSquare", "ReduceLogSumExp"),
)

_ROUNDING = 2.0**-22
"""What the mean of equal values may be off, as a share of it."""
_MOST_ROUNDING = 1e-5
"""The most that normalized values may be off by it."""


def reduce(graph: Graph, op_type: str, x: str, axes: list[int], keepdims: bool) -> str:
    """Add a reduction; its axes are an attribute or an operand, as the opset has it."""
    if graph.opset >= _AXES_AS_OPERAND.get(op_type, 18):
        return graph.add(op_type, x, np.array(axes, "int64"), keepdims=int(keepdims))
    return graph.add(op_type, x, axes=axes, keepdims=int(keepdims))


def reduction(graph: Graph) -> list[str]:
    """Reduce one or more axes; the result may be combined with what was reduced."""
    x = graph.pick(lambda a: a.ndim > 0)
    rank = len(graph.shape(x))
    axes = graph.random.sample(range(rank), graph.choice([1, 1, min(rank, 2)]))
    axes = [graph.axis(rank, axis) for axis in axes]
    op_type = graph.choice(_REDUCTIONS)
    if graph.chance(0.4):
        small = graph.settled(reduce(graph, op_type, x, axes, True))
        return [graph.add(graph.choice(["Sub", "Add", "Mul"]), x, small)]
    return [reduce(graph, op_type, x, axes, graph.chance(0.5))]


def arg_max(graph: Graph) -> list[str]:
    """Return the places of largest values, where no two are near one another."""
    x = graph.pick(lambda a: a.ndim > 0 and max(a.shape) > 1)
    shape = graph.shape(x)
    axis = graph.choice([i for i, size in enumerate(shape) if size > 1])
    ordered = np.sort(graph.values[x], axis)
    best, second = ordered.take(-1, axis), ordered.take(-2, axis)
    if (best - second).min() < 1e-3:
        raise Unfit("two values are nearly equal")
    flags = {"axis": graph.axis(len(shape), axis), "keepdims": graph.between(0, 1)}
    return [graph.add("ArgMax", x, **flags)]


def softmax(graph: Graph) -> list[str]:
    """Apply softmax or its logarithm along any axis, by one node or written out."""
    x = graph.pick(lambda a: a.ndim > 0)
    axis = graph.axis(len(graph.shape(x)))
    kind = graph.choice(["Softmax", "Softmax", "LogSoftmax", "written out"])
    if kind != "written out":
        return [graph.add(kind, x, axis=axis)]
    largest = reduce(graph, "ReduceMax", x, [axis], True)
    powers = graph.add("Exp", graph.add("Sub", x, largest))
    return [graph.add("Div", powers, reduce(graph, "ReduceSum", powers, [axis], True))]


def _check_spread(x: Array, axes: list[int], epsilon: float) -> None:
    """Refuse to normalize values that are nearly equal: what is left is the rounding of their mean.

    Raises
    ------
    Unfit
        If that would be seen.
    """
    if all(x.shape[axis] == 1 for axis in axes):  # the mean is exact
        return
    wide = x.astype("float64")
    mean, spread = wide.mean(tuple(axes)), np.sqrt(wide.var(tuple(axes)) + epsilon)
    if (_ROUNDING * np.abs(mean) / spread).max() > _MOST_ROUNDING:
        raise Unfit("values that are normalized are nearly equal")


def _scale(graph: Graph, shape: tuple[int, ...]) -> Array:
    return (1 + 0.3 * graph.normal(shape)).astype("float32")


def layer_norm(graph: Graph, x: str | None = None, axis: int | None = None) -> list[str]:
    """Normalize over the last axes by one node, or over any axis written out."""
    x = x or graph.pick(lambda a: a.ndim > 0 and max(a.shape) > 1)
    shape = graph.shape(x)
    rank = len(shape)
    epsilon = graph.choice([1e-5, 1e-6, 1e-3])
    if graph.opset >= 17 and graph.chance(0.5):
        axis = graph.choice([rank - 1, graph.between(0, rank - 1)]) if axis is None else axis
        _check_spread(graph.values[x], list(range(axis, rank)), epsilon)
        scale: list[Array] = [_scale(graph, shape[axis:])]
        if graph.chance(0.7):
            scale.append(0.3 * graph.normal(shape[axis:]))
        axis = graph.axis(rank, axis)
        return [graph.add("LayerNormalization", x, *scale, axis=axis, epsilon=epsilon)]
    axis = graph.choice([rank - 1, graph.between(0, rank - 1)]) if axis is None else axis
    along = [graph.axis(rank, axis)]
    is_rms = graph.chance(0.2)
    if not is_rms:
        _check_spread(graph.values[x], along, epsilon)
    centered = x if is_rms else graph.add("Sub", x, reduce(graph, "ReduceMean", x, along, True))
    square = (
        graph.add("Pow", centered, scalar(graph, 2.0))
        if graph.chance(0.5)
        else graph.add("Mul", centered, centered)
    )
    variance = graph.add(
        "Add", reduce(graph, "ReduceMean", square, along, True), scalar(graph, epsilon)
    )
    result = graph.add("Div", centered, graph.add("Sqrt", variance))
    if graph.chance(0.7):
        sizes = (shape[axis], *[1] * (rank - axis - 1))
        result = graph.add("Mul", result, _scale(graph, sizes))
        result = graph.add("Add", result, 0.3 * graph.normal(sizes))
    return [result]


def channel_norm(graph: Graph) -> list[str]:
    """Normalize channels: of a batch, of an instance, or of groups."""
    kind = graph.choice(
        [
            "BatchNormalization",
            "BatchNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "MeanVarianceNormalization",
        ]
    )
    if kind == "BatchNormalization":
        return [batch_norm(graph, graph.pick(lambda a: a.ndim > 1))]
    x = graph.pick(lambda a: a.ndim > 2 and a[0, 0].size > 2)
    channels = graph.shape(x)[1]
    if kind == "MeanVarianceNormalization":
        rest = list(range(2, len(graph.shape(x))))
        axes = graph.choice([[0, *rest], rest, [1], [1, 2]])
        _check_spread(graph.values[x], axes, 1e-18)
        return [graph.add(kind, x, axes=axes)]
    pair = [_scale(graph, (channels,)), graph.vector(channels)]
    if kind == "InstanceNormalization" or graph.opset < 21:
        epsilon = graph.choice([1e-5, 1e-3])
        _check_spread(graph.values[x], list(range(2, len(graph.shape(x)))), epsilon)
        return [graph.add("InstanceNormalization", x, *pair, epsilon=epsilon)]
    groups = graph.choice([f for f in range(1, channels + 1) if channels % f == 0])
    grouped = graph.values[x].reshape(graph.shape(x)[0], groups, -1)
    _check_spread(grouped, [2], 1e-5)
    return [graph.add(kind, x, *pair, num_groups=groups)]


def batch_norm(graph: Graph, x: str) -> str:
    """Normalize channels by constants."""
    channels = graph.shape(x)[1]
    mean = 0.3 * graph.normal([channels])
    variance = graph.rng.uniform(0.5, 2, channels).astype("float32")
    constants = [_scale(graph, (channels,)), graph.vector(channels), mean, variance]
    return graph.add("BatchNormalization", x, *constants, epsilon=graph.choice([1e-5, 1e-3]))


RULES = (
    (2.0, reduction),
    (0.2, arg_max),
    (2.0, softmax),
    (2.0, layer_norm),
    (1.0, channel_norm),
)
