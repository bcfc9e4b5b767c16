"""Rules of networks of quantized operators, which take and return integers of 8 and 16 bits.

The scale of a result is drawn such that no value lies near the middle of two integers, where last
bits decide. So all integers are those of ONNX Runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.helper import make_node

from tvm_sparse.testing.random_graphs.graph import Graph, Operand
from tvm_sparse.testing.random_graphs.images import random_window
from tvm_sparse.testing.random_graphs.quantized import is_between, steps_for
from tvm_sparse.testing.random_graphs.run_nodes import Array, Unfit, run_nodes

_BYTES = ("uint8", "uint8", "int8")


def floats_of(graph: Graph, name: str) -> Array:
    """Return what the integers of a tensor stand for."""
    scale, zero = graph.steps[name]
    return (graph.values[name].astype("int32") - zero.astype("int32")).astype("float32") * scale


def parts_of(graph: Graph, name: str) -> list[Operand]:
    """Return a tensor of integers, its scale and its zero point."""
    return [name, *graph.steps[name]]


def pick_integers(graph: Graph, rank: tuple[int, ...] = (), bytes_only: bool = True) -> str:
    """Return a tensor of integers with a known scale; it is made of floats if there is none."""
    dtypes = ["uint8", "int8"] if bytes_only else ["uint8", "int8", "int16", "uint16"]
    names = [
        name
        for name in graph.pool
        if name in graph.steps
        and graph.values[name].dtype.name in dtypes
        and (not rank or graph.values[name].ndim in rank)
    ]
    unread = [name for name in names if name not in graph.read]
    if not names or graph.chance(0.15):
        return quantize(graph, rank)[0]
    name = graph.choice(unread if unread and graph.chance(0.7) else names)
    graph.read.add(name)
    return str(name)


def kept(graph: Graph, name: str, steps: tuple[Array, Array]) -> list[str]:
    """Return a result after noting what its integers stand for."""
    graph.steps[name] = steps
    return [name]


def quantize(graph: Graph, rank: tuple[int, ...] = ()) -> list[str]:
    """Round floats."""
    x = graph.pick(lambda a: not rank or a.ndim in rank)
    if graph.opset >= 21 and graph.chance(0.1) and not rank:
        wide = graph.choice(["int16", "uint16"])
        scale = np.asarray(np.float32(max(np.abs(graph.values[x]).max(), 1e-3) / 30000))
        steps = scale, np.asarray(0 if wide == "int16" else 32768, wide)
        if is_between(graph.values[x], float(scale), 0, np.iinfo(wide), 2e-2):
            raise Unfit("a value lies between two steps")
    else:
        steps = steps_for(graph, graph.values[x], graph.choice(_BYTES))
    return kept(graph, graph.add("QuantizeLinear", x, *steps), steps)


def dequantize(graph: Graph) -> list[str]:
    """Return to floats."""
    return [graph.add("DequantizeLinear", *parts_of(graph, pick_integers(graph, bytes_only=False)))]


def result(graph: Graph, op_type: str, operands: list[Operand], y: Array, **options: Any) -> Any:
    """Add an operator whose operands end in the scale and the zero point of its result `y`."""
    dtype = next(graph.values[x].dtype.name for x in operands if isinstance(x, str))
    steps = steps_for(graph, y, dtype)
    return kept(graph, graph.add(op_type, *operands, *steps, **options), steps)


def elementwise(graph: Graph) -> list[str]:
    """Add or multiply two tensors, or a tensor and a constant, or apply a function."""
    kind = graph.choice(["Add", "Add", "Add", "Mul", "Mul", "Sigmoid", "LeakyRelu", "Softmax"])
    a = pick_integers(graph)
    x, parts = floats_of(graph, a), parts_of(graph, a)
    if kind == "Sigmoid":
        return list(result(graph, "QLinearSigmoid", parts, 1 / (1 + np.exp(-x))))
    if kind == "LeakyRelu":
        alpha = graph.choice([0.0, 0.1, 0.3])
        y = np.where(x < 0, np.float32(alpha) * x, x)
        return list(result(graph, "QLinearLeakyRelu", parts, y, alpha=alpha))
    if kind == "Softmax" and x.ndim:
        steps = np.asarray(np.float32(1 / 256)), np.asarray(0, "uint8")
        powers = np.exp(x - x.max(-1, keepdims=True))
        y = powers / powers.sum(-1, keepdims=True)
        if graph.values[a].dtype != "uint8" or is_between(y, 1 / 256, 0, np.iinfo("uint8"), 5e-3):
            raise Unfit("no softmax")
        made = graph.add("QLinearSoftmax", *parts, *steps, axis=-1, opset=13)
        return kept(graph, made, steps)
    other = _other(graph, a)
    z = floats_of(graph, other)
    if graph.chance(0.3):
        x, z, a, other = z, x, other, a
    y = x + z if kind == "Add" else x * z
    if y.size > 3000:
        raise Unfit("a large tensor")
    operands = [*parts_of(graph, a), *parts_of(graph, other)]
    return list(result(graph, f"QLinear{kind}", operands, y))


def _other(graph: Graph, name: str) -> str:
    """Return integers of the same type that broadcast with a tensor: another tensor or constant."""
    array = graph.values[name]
    fits = [
        other
        for other in graph.pool
        if other in graph.steps
        and graph.values[other].dtype == array.dtype
        and graph.shape(other) == array.shape
    ]
    if graph.chance(0.7):
        return str(graph.choice(fits)) if fits else name
    shape = [size if graph.chance(0.5) else 1 for size in array.shape]
    limits = np.iinfo(array.dtype)
    values = graph.rng.integers(limits.min, limits.max + 1, shape).astype(array.dtype)
    zero = np.asarray(graph.between(limits.min, limits.max), array.dtype)
    constant = graph.constant(values)
    graph.values[constant] = values
    graph.steps[constant] = np.asarray(np.float32(graph.random.uniform(0.005, 0.03))), zero
    return constant


def of_floats(graph: Graph, op_type: str, feeds: dict[str, Array], **options: Any) -> Array:
    """Return what an operator gives for floats."""
    node = make_node(op_type, list(feeds), ["y"], **options)
    (y,) = run_nodes([node], feeds, ["y"], graph.opset)
    return y


def pool(graph: Graph) -> list[str]:
    """Pool windows or whole images."""
    a = pick_integers(graph, (4,))
    steps, x = graph.steps[a], {"x": floats_of(graph, a)}
    kind = graph.choice(["max", "average", "global"])
    if kind == "global":
        y = of_floats(graph, "GlobalAveragePool", x)
        return list(result(graph, "QLinearGlobalAveragePool", parts_of(graph, a), y))
    window = random_window(graph, graph.shape(a)[2:], 3)
    window.pop("dilations", None)
    if any(
        n > size // 2
        for n, size in zip(window.get("pads", ()), window["kernel_shape"] * 2, strict=False)
    ):
        raise Unfit("windows of padding")
    if kind == "max":
        return kept(graph, graph.add("MaxPool", a, **window), steps)
    y = of_floats(graph, "AveragePool", x, **window)
    return list(result(graph, "QLinearAveragePool", parts_of(graph, a), y, **window))


def moved(graph: Graph) -> list[str]:
    """Transpose or reshape integers, or join two tensors."""
    a = pick_integers(graph, (2, 3, 4))
    array, steps = graph.values[a], graph.steps[a]
    kind = graph.choice(["Transpose", "Reshape", "Concat", "Concat", "Slice"])
    if kind == "Transpose":
        perm = graph.random.sample(range(array.ndim), array.ndim)
        return kept(graph, graph.add("Transpose", a, perm=perm), steps)
    if kind == "Reshape":
        return kept(graph, graph.add("Reshape", a, np.array([0, -1], "int64")), steps)
    if kind == "Slice" and array.shape[1] > 1:
        ends = np.array([graph.between(1, array.shape[1] - 1)], "int64")
        first, axes = np.zeros(1, "int64"), np.ones(1, "int64")
        return kept(graph, graph.add("Slice", a, first, ends, axes), steps)
    other = _other(graph, a)
    if graph.shape(other) != array.shape:
        raise Unfit("another shape")
    joined = np.concatenate([floats_of(graph, a), floats_of(graph, other)], 1)
    of_y = steps_for(graph, joined, array.dtype.name)
    operands = [*of_y, *parts_of(graph, a), *parts_of(graph, other)]
    return kept(graph, graph.add("QLinearConcat", *operands, axis=1), of_y)


RULES = (
    (2.0, quantize),
    (1.0, dequantize),
    (3.0, elementwise),
    (1.0, pool),
    (1.0, moved),
)
