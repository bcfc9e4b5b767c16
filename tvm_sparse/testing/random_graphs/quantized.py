"""Rules of quantized networks: layers between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_sparse.testing.random_graphs.arithmetic import activate
from tvm_sparse.testing.random_graphs.graph import Graph
from tvm_sparse.testing.random_graphs.images import random_window
from tvm_sparse.testing.random_graphs.run_nodes import Array, Unfit

_MARGIN = 5e-4
"""The least distance of a value from one at which it is rounded to another step, in steps."""
_SCALES = 20
"""How many steps are tried until no value is so near."""
WIDTHS = (1, 8, 16, 17, 24, 32, 48, 64, 96)


def rounded(graph: Graph, x: str) -> str:
    """Add the rounding to 8 bits, and what makes numbers of them again.

    Raises
    ------
    Unfit
        If values lie where the last bit decides to which step they are rounded.
    """
    steps = steps_for(graph, graph.values[x], graph.choice(["uint8", "int8", "int8"]))
    return graph.add("DequantizeLinear", graph.add("QuantizeLinear", x, *steps), *steps)


def steps_for(graph: Graph, array: Array, dtype: str) -> tuple[Array, Array]:
    """Return a scale and a zero point of 8 bits with which no value lies between two steps.

    Raises
    ------
    Unfit
        If none of some random ones does it.
    """
    limits = np.iinfo(dtype)
    for _ in range(_SCALES):
        scale, zero = _step(graph, array, limits)
        if not is_between(array, float(scale), zero, limits, _MARGIN):
            return np.asarray(scale), np.asarray(zero, dtype)
    raise Unfit("a value lies between two steps")


def is_between(array: Array, scale: float, zero: int, limits: np.iinfo[Any], margin: float) -> bool:
    """Return whether a value lies where the last bit decides to which step it is rounded."""
    steps = array.astype("float64") / scale
    inside = (steps > limits.min - zero - 1) & (steps < limits.max - zero + 1)
    near = np.abs(steps - np.floor(steps) - 0.5)[inside]
    return bool(near.min(initial=1.0) <= margin)


def _step(graph: Graph, array: Array, limits: np.iinfo[Any]) -> tuple[np.float32, int]:
    """Return a scale and a zero point with which a few values at the ends may be cut off."""
    spread = graph.random.uniform(0.7, 1.2)
    if limits.min < 0 and graph.chance(0.5):
        return np.float32(max(np.abs(array).max(), 1e-3) * spread / limits.max), 0
    low, high = min(float(array.min()), 0.0), max(float(array.max()), 1e-3)
    scale = np.float32((high - low) * spread / 255)
    return scale, int(np.clip(limits.min - np.rint(low * spread / scale), limits.min, limits.max))


def _weight(graph: Graph, shape: list[int], inputs: int, axis: int) -> str:
    """Add what makes numbers of pruned weights of 8 bits, with a scale for all or for each."""
    weight = graph.weight(shape, inputs)
    others = tuple(i for i in range(len(shape)) if i != axis)
    is_whole = graph.chance(0.4)
    largest = np.abs(weight).max() if is_whole else np.abs(weight).max(others, keepdims=True)
    scales = np.where(largest > 0, largest / 127, 1).astype("float32")
    integers = np.rint(weight / scales).astype("int8")
    if is_whole:
        return graph.add("DequantizeLinear", integers, scales, np.asarray(0, "int8"))
    zeros = np.zeros(shape[axis], "int8") if graph.chance(0.7) else None
    return graph.add("DequantizeLinear", integers, scales.ravel(), zeros, axis=axis)


def _finished(graph: Graph, y: str, x: str) -> list[str]:
    if graph.chance(0.5):
        y = activate(graph, y, graph.choice(["Relu", "Relu", None]))
    if graph.shape(y) == graph.shape(x) and graph.chance(0.4):
        y = graph.add("Add", y, x)
    return [rounded(graph, y) if graph.chance(0.4) else y]


def linear(graph: Graph) -> list[str]:
    """Add a linear layer over the last axis."""
    x = graph.pick(lambda a: a.ndim > 1)
    shape, width = graph.shape(x), graph.choice(WIDTHS)
    values = rounded(graph, x)
    if len(shape) == 2 and graph.chance(0.5):
        operands: list[str | Array] = [_weight(graph, [width, shape[-1]], shape[-1], 0)]
        if graph.chance(0.7):
            operands.append(graph.vector(width))
        return _finished(graph, graph.add("Gemm", values, *operands, transB=1), x)
    y = graph.add("MatMul", values, _weight(graph, [shape[-1], width], shape[-1], 1))
    if graph.chance(0.7):
        y = graph.add("Add", y, graph.vector(width))
    return _finished(graph, y, x)


def convolution(graph: Graph) -> list[str]:
    """Add a convolution of one or more groups, or a depthwise one."""
    x = graph.pick(lambda a: a.ndim in (3, 4, 4) and a.shape[1] <= 48)
    inputs = graph.shape(x)[1]
    channels, groups = graph.choice(WIDTHS), 1
    if graph.chance(0.2):
        channels, groups = inputs, inputs
    window = random_window(graph, graph.shape(x)[2:])
    shape = [channels, inputs // groups, *window["kernel_shape"]]
    operands: list[str | Array] = [_weight(graph, shape, int(np.prod(shape[1:])), 0)]
    if graph.chance(0.6):
        operands.append(graph.vector(channels))
    y = graph.add("Conv", rounded(graph, x), *operands, group=groups, **window)
    return _finished(graph, y, x)


RULES = (
    (1.5, linear),
    (1.5, convolution),
)
