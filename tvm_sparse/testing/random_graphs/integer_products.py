"""Rules of products of integers: linear layers and convolutions of quantized networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_sparse.testing.random_graphs.graph import Graph, Operand
from tvm_sparse.testing.random_graphs.images import random_window
from tvm_sparse.testing.random_graphs.integer_operators import (
    floats_of,
    kept,
    of_floats,
    parts_of,
    pick_integers,
    result,
)
from tvm_sparse.testing.random_graphs.quantized import WIDTHS, is_between, steps_for
from tvm_sparse.testing.random_graphs.run_nodes import Array, Unfit

_MOST_DYNAMIC = 800
"""The most elements of a tensor whose scale cannot be drawn, as it follows from its range."""


def _weight(
    graph: Graph, shape: list[int], inputs: int, axis: int, kind: str, beside: np.dtype[Any]
) -> tuple[Array, Array, Array]:
    """Return pruned integers, with a scale for all or for each output, and zero points.

    Beside signed inputs they are small: on processors without VNNI, ONNX Runtime cuts off the sums
    of two products that do not fit in 16 bits.
    """
    largest_step = 60 if beside == np.int8 else 127
    weight = graph.weight(shape, inputs)
    others = tuple(i for i in range(len(shape)) if i != axis)
    is_whole = kind == "whole" or graph.chance(0.4)
    largest = np.abs(weight).max() if is_whole else np.abs(weight).max(others, keepdims=True)
    scales = np.where(largest > 0, largest / largest_step, 1).astype("float32")
    dtype = "int8" if beside == np.int8 else graph.choice(["int8", "int8", "uint8"])
    zero = graph.choice([128, 128, 120, 100]) if dtype == "uint8" else graph.choice([0, 0, 3])
    limits = np.iinfo(dtype)
    integers = np.clip(np.rint(weight / scales) + zero, limits.min, limits.max).astype(dtype)
    scale = scales.reshape(()) if is_whole else scales.ravel()
    return integers, scale, np.full(scale.shape, zero, dtype)


def _floats(weight: tuple[Array, Array, Array], axis: int) -> Array:
    integers, scale, zero = weight
    shape = [1] * integers.ndim
    if scale.ndim:
        shape[axis] = -1
    wide = integers.astype("int32") - zero.reshape(shape).astype("int32")
    return np.asarray(wide * scale.reshape(shape), "float32")


def linear(graph: Graph) -> list[str]:
    """Add a product of integers."""
    a = pick_integers(graph, (2, 3, 4))
    inputs, width = graph.shape(a)[-1], graph.choice(WIDTHS)
    weight = _weight(graph, [inputs, width], inputs, 1, "any", graph.values[a].dtype)
    x = floats_of(graph, a)
    y = np.asarray(x.astype("f8") @ _floats(weight, 1).astype("f8"), "float32")
    if x.ndim != 2 or graph.chance(0.5):
        return list(result(graph, "QLinearMatMul", [*parts_of(graph, a), *weight], y))
    size = (graph.steps[a][0] * weight[1]).astype("float32")
    bias = np.rint(graph.vector(width) / size).astype("int32")
    y = y + bias * size
    return list(result(graph, "QGemm", [*parts_of(graph, a), *weight, bias], y))


def _window(graph: Graph, a: str) -> tuple[int, int, dict[str, Any]]:
    """Return the output channels, the groups and the window of a convolution of a tensor."""
    inputs = graph.shape(a)[1]
    kind = graph.choice(["whole", "whole", "whole", "depthwise", "depthwise", "groups"])
    channels, groups = graph.choice(WIDTHS), 1
    if kind == "depthwise":
        channels, groups = inputs * graph.choice([1, 1, 1, 2]), inputs
    if kind == "groups":
        groups = graph.choice([n for n in range(1, inputs + 1) if inputs % n == 0])
        channels = groups * graph.between(1, 6)
    return channels, groups, random_window(graph, graph.shape(a)[2:])


def convolution(graph: Graph) -> list[str]:
    """Add a convolution of integers, of one or more groups, or a depthwise one."""
    a = pick_integers(graph, (3, 4))
    inputs = graph.shape(a)[1]
    channels, groups, window = _window(graph, a)
    shape = [channels, inputs // groups, *window["kernel_shape"]]
    weight = _weight(graph, shape, int(np.prod(shape[1:])), 0, "any", graph.values[a].dtype)
    size = (graph.steps[a][0] * weight[1]).astype("float32")
    operands: list[Operand] = [*parts_of(graph, a), *weight]
    bias = np.zeros(channels, "int32")
    if graph.chance(0.6):
        bias = np.rint(graph.vector(channels) / size).astype("int32")
    feeds = {"x": floats_of(graph, a), "w": _floats(weight, 0), "b": bias * size}
    feeds["b"] = np.broadcast_to(feeds["b"], channels).astype("float32")
    y = of_floats(graph, "Conv", feeds, group=groups, **window)
    steps = steps_for(graph, y, graph.values[a].dtype.name)
    operands += [*steps, *([bias] if bias.any() else [])]
    return kept(graph, graph.add("QLinearConv", *operands, group=groups, **window), steps)


def integer_product(graph: Graph) -> list[str]:
    """Add a product whose sums are read as integers or multiplied by the scales."""
    is_conv = graph.chance(0.5)
    a = pick_integers(graph, (4,) if is_conv else (2, 3))
    scale, zero = graph.steps[a]
    return _scaled(graph, _sums(graph, a, zero, is_conv), scale)


def dynamic(graph: Graph) -> list[str]:
    """Add a product of floats that are rounded by their range."""
    is_conv = graph.chance(0.4)
    ranks = (4,) if is_conv else (2, 3)
    x = graph.pick(lambda a: a.ndim in ranks and a.size <= _MOST_DYNAMIC)
    array = graph.values[x]
    low, high = min(float(array.min()), 0.0), max(float(array.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = np.rint(-low / scale)
    edge = abs(-low / scale - np.floor(-low / scale) - 0.5)
    if edge < 1e-3 or is_between(array, scale, int(zero), np.iinfo("uint8"), 5e-4):
        raise Unfit("a value lies between two steps")
    if not is_conv and graph.chance(0.4):
        width = graph.choice(WIDTHS)
        weight = _weight(
            graph, [array.shape[-1], width], array.shape[-1], 1, "any", np.dtype("uint8")
        )
        bias = [graph.vector(width)] if graph.chance(0.5) else []
        return [graph.add("DynamicQuantizeMatMul", x, *weight, *bias)]
    q, s, z = graph.add_all("DynamicQuantizeLinear", x, outputs=3)
    return _scaled(graph, _sums(graph, q, z, is_conv), s)


def _sums(graph: Graph, a: str, zero: Operand, is_conv: bool) -> tuple[str, int, Array]:
    """Return exact sums, the rank of their bias, and the scale of the weight."""
    inputs = graph.shape(a)[1 if is_conv else -1]
    if is_conv:
        channels, groups, window = _window(graph, a)
        shape = [channels, inputs // groups, *window["kernel_shape"]]
        weight = _weight(graph, shape, int(np.prod(shape[1:])), 0, "whole", graph.values[a].dtype)
        name = graph.add("ConvInteger", a, weight[0], zero, weight[2], group=groups, **window)
        return name, 2, weight[1]
    weight = _weight(
        graph, [inputs, graph.choice(WIDTHS)], inputs, 1, "whole", graph.values[a].dtype
    )
    return graph.add("MatMulInteger", a, weight[0], zero, weight[2]), 0, weight[1]


def _scaled(graph: Graph, sums: tuple[str, int, Array], scale: Operand) -> list[str]:
    name, behind, of_weight = sums
    if graph.chance(0.2):
        return [name]
    channels = graph.shape(name)[1 if behind else -1]
    if graph.chance(0.3):
        bias = graph.rng.integers(-3000, 3000, [channels, *[1] * behind]).astype("int32")
        name = graph.add("Add", name, bias)
    name = graph.add("Cast", name, to=1)
    if isinstance(scale, str):
        return [graph.add("Mul", name, graph.add("Mul", scale, of_weight))]
    return [graph.add("Mul", name, np.asarray(scale * of_weight, "float32"))]


RULES = (
    (2.0, linear),
    (3.0, convolution),
    (1.0, integer_product),
    (1.0, dynamic),
)
