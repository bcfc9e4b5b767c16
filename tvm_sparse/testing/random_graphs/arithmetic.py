"""Rules of single elements: functions, arithmetic with broadcasting, comparisons, integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_sparse.testing.random_graphs.graph import Graph
from tvm_sparse.testing.random_graphs.run_nodes import Array, Unfit

MARGIN = 1e-3
"""The least distance of a value from a place where a function jumps."""

_PLAIN = (
    *("Relu", "Relu", "Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Abs", "Neg", "HardSwish"),
    *("HardSigmoid", "Elu", "Selu", "LeakyRelu", "Sin", "Cos", "Atan", "Exp", "Identity", "Celu"),
    *("Mish", "Gelu", "Asinh", "Sinh", "Cosh"),
)
_SINCE = {"HardSwish": 14, "Mish": 18, "Gelu": 20}


def _attributes(graph: Graph, op_type: str) -> dict[str, Any]:
    if op_type in ("Elu", "LeakyRelu", "Celu") and graph.chance(0.5):
        return {"alpha": graph.choice([0.1, 0.3, 1.5])}
    if op_type == "HardSigmoid" and graph.chance(0.5):
        return {"alpha": 1 / 6, "beta": 0.5}
    if op_type == "Gelu" and graph.chance(0.5):
        return {"approximate": "tanh"}
    return {}


def activate(graph: Graph, x: str, name: str | None = None) -> str:
    """Add a function of single elements."""
    op_type = name or graph.choice(_PLAIN)
    if _SINCE.get(op_type, 1) > graph.opset:
        op_type = "Relu"
    return graph.add(op_type, x, **_attributes(graph, op_type))


def scalar(graph: Graph, value: float) -> Array:
    """Return a constant of rank 0 or 1."""
    return np.float32(value).reshape(graph.choice([(), (), (1,)]))


def unary(graph: Graph) -> list[str]:
    """Apply one or two functions."""
    x = activate(graph, graph.pick())
    return [activate(graph, x) if graph.chance(0.3) else x]


def guarded(graph: Graph) -> list[str]:
    """Apply a function that is defined for positive numbers only."""
    x = graph.add("Add", graph.add("Abs", graph.pick()), scalar(graph, 0.5))
    op_type = graph.choice(["Sqrt", "Log", "Reciprocal", "Pow"])
    if op_type == "Pow":
        return [graph.add("Pow", x, scalar(graph, graph.choice([0.5, 1.5, -1.0, -0.5])))]
    return [graph.add(op_type, x)]


def power(graph: Graph) -> list[str]:
    """Raise to the second or third power, as exporters write it."""
    x = graph.pick()
    if graph.chance(0.4):
        return [graph.add("Mul", x, x)]
    return [graph.add("Pow", x, scalar(graph, graph.choice([2.0, 2.0, 3.0])))]


def clip(graph: Graph) -> list[str]:
    """Clip to one or two bounds."""
    x = graph.pick()
    bounds: list[Array | None] = [np.asarray(np.float32(-0.8)), np.asarray(np.float32(1.1))]
    if graph.chance(0.4):
        bounds[graph.between(0, 1)] = None
    return [graph.add("Clip", x, *bounds)]


def written_out(graph: Graph) -> list[str]:
    """Write an activation out, as exporters do."""
    x = graph.pick()
    kind = graph.choice(["gelu", "gelu_tanh", "silu", "hard_swish", "hard_sigmoid", "mish"])
    if kind == "gelu":
        inner = graph.add("Erf", graph.add("Div", x, scalar(graph, 2**0.5)))
        half = graph.add("Mul", x, graph.add("Add", inner, scalar(graph, 1.0)))
        return [graph.add("Mul", half, scalar(graph, 0.5))]
    if kind == "gelu_tanh":
        cube = graph.add("Mul", graph.add("Pow", x, scalar(graph, 3.0)), scalar(graph, 0.044715))
        inner = graph.add("Mul", graph.add("Add", x, cube), scalar(graph, (2 / np.pi) ** 0.5))
        one = graph.add("Add", graph.add("Tanh", inner), scalar(graph, 1.0))
        return [graph.add("Mul", graph.add("Mul", x, scalar(graph, 0.5)), one)]
    if kind == "silu":
        return [graph.add("Mul", x, graph.add("Sigmoid", x))]
    if kind == "mish":
        return [graph.add("Mul", x, graph.add("Tanh", graph.add("Softplus", x)))]
    low, high = np.asarray(np.float32(0)), np.asarray(np.float32(6))
    gate = graph.add("Clip", graph.add("Add", x, scalar(graph, 3.0)), low, high)
    gate = graph.add("Div", gate, scalar(graph, 6.0))
    return [graph.add("Mul", x, gate) if kind == "hard_swish" else gate]


def broadcastable(graph: Graph, shape: tuple[int, ...]) -> Array:
    """Return a random constant that broadcasts to a shape."""
    kind = graph.choice(["scalar", "last", "axis", "mixed", "full"])
    if kind == "scalar" or not shape:
        return scalar(graph, graph.random.uniform(-2, 2))
    if kind == "last":
        return graph.normal(shape[-1:])
    if kind == "axis":
        axis = graph.between(0, len(shape) - 1)
        return graph.normal([shape[axis], *[1] * (len(shape) - axis - 1)])
    if kind == "mixed":
        return graph.normal([size if graph.chance(0.5) else 1 for size in shape])
    return graph.normal(shape)


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        return max(int(np.prod(np.broadcast_shapes(a, b))), 1) <= 3000
    except ValueError:
        return False


def binary(graph: Graph) -> list[str]:
    """Combine a tensor with a constant or with another tensor, in either order."""
    x = graph.pick()
    shape = graph.shape(x)
    op_type = graph.choice(["Add", "Add", "Sub", "Mul", "Mul", "Div", "Max", "Min", "PRelu"])
    other: str | Array
    if op_type == "PRelu" or graph.chance(0.5):
        other = broadcastable(graph, shape)
        if op_type == "Div":
            other = np.where(np.abs(other) < 0.5, 0.5, other).astype("float32")
    else:
        other = graph.pick(lambda a: _broadcasts(a.shape, shape))
        if op_type == "Div":
            other = graph.add("Add", graph.add("Abs", other), scalar(graph, 0.5))
    pair = (x, other)
    if op_type in ("Add", "Mul", "Sub", "Max", "Min") and graph.chance(0.4):
        pair = (other, x)  # type: ignore[assignment]
    return [graph.add(op_type, *pair)]


def residual(graph: Graph) -> list[str]:
    """Add a tensor to one of the same shape."""
    x = graph.pick()
    shape = graph.shape(x)
    others = [
        name
        for name in graph.pool
        if name != x and graph.values[name].dtype == "float32" and graph.shape(name) == shape
    ]
    if not others:
        raise Unfit("no tensor has the same shape")
    total = graph.add("Add", x, graph.choice(others))
    return [activate(graph, total, "Relu") if graph.chance(0.3) else total]


def several(graph: Graph) -> list[str]:
    """Combine three operands by one node."""
    x = graph.pick()
    shape = graph.shape(x)
    op_type = graph.choice(["Sum", "Max", "Min", "Mean"])
    third: str | Array = broadcastable(graph, shape)
    if graph.chance(0.5):
        third = graph.pick(lambda a: _broadcasts(a.shape, shape))
    return [graph.add(op_type, x, broadcastable(graph, shape), third)]


def _condition(graph: Graph, shape: tuple[int, ...]) -> str | Array:
    """Return a boolean tensor that broadcasts to a shape."""
    kind = graph.choice(["input", "constant", "comparison", "comparison"])
    if kind == "input":
        return graph.pick(lambda a: _broadcasts(a.shape, shape), "bool")
    if kind == "constant":
        return np.asarray(broadcastable(graph, shape) > 0)
    x = graph.pick(lambda a: a.ndim > 0 and _broadcasts(a.shape, shape))
    threshold = gap(graph.values[x])
    found = graph.add(graph.choice(["Greater", "Less"]), x, scalar(graph, threshold))
    return graph.add("Not", found) if graph.chance(0.2) else found


def gap(array: Array) -> float:
    """Return a threshold that no value is near.

    Raises
    ------
    Unfit
        If the values leave no room.
    """
    values = np.unique(array)
    values = values[(values >= np.quantile(values, 0.2)) & (values <= np.quantile(values, 0.8))]
    steps = np.diff(values)
    if not len(steps) or steps.max() < 2 * MARGIN:
        raise Unfit("no gap between values")
    at = int(steps.argmax())
    return float(values[at] + steps[at] / 2)


def where(graph: Graph) -> list[str]:
    """Choose between two tensors, or a tensor and a constant."""
    x = graph.pick()
    shape = graph.shape(x)
    branches: list[str | Array] = [x, broadcastable(graph, shape)]
    if graph.chance(0.4):
        branches[1] = graph.pick(lambda a: _broadcasts(a.shape, shape))
    graph.random.shuffle(branches)
    return [graph.add("Where", _condition(graph, shape), *branches)]


def masks(graph: Graph) -> list[str]:
    """Combine conditions, and make numbers of them."""
    x = graph.pick(lambda a: a.ndim > 0)
    shape = graph.shape(x)
    a, b = _condition(graph, shape), _condition(graph, shape)
    both = graph.add(graph.choice(["And", "Or", "Xor"]), a, b)
    if graph.chance(0.3):
        return [both]
    return [graph.add("Mul", x, graph.add("Cast", both, to=1))]


def stepped(graph: Graph) -> list[str]:
    """Round to whole numbers, where no value is near a step."""
    x = graph.pick()
    op_type = graph.choice(["Floor", "Ceil", "Round", "Sign"])
    array = graph.values[x]
    shifted = array + 0.5 if op_type == "Round" else array
    distance = np.abs(array) if op_type == "Sign" else np.abs(shifted - np.round(shifted))
    if float(distance.min()) < MARGIN:
        raise Unfit("a value is near a step")
    return [graph.add(op_type, x)]


def integers(graph: Graph) -> list[str]:
    """Compute with integers, and make numbers, masks or indices of them."""
    x = graph.pick(dtype=graph.choice(["int64", "int32"]))
    dtype = graph.values[x].dtype

    def number(value: int) -> Array:
        return np.asarray(value, dtype)

    kind = graph.choice(["add", "mul", "mod", "div", "cast", "compare", "embed", "embed", "sum"])
    if kind == "embed":
        rows = int(graph.values[x].max()) + 1
        if graph.values[x].min() < 0 or rows > 100:
            raise Unfit("the integers are no indices")
        return [graph.add("Gather", graph.normal([rows + 2, graph.choice([8, 12, 16, 24])]), x)]
    if kind == "cast":
        return [graph.add("Cast", x, to=1)]
    if kind == "compare":
        op_type = graph.choice(["Equal", "Greater", "LessOrEqual"])
        return [graph.add(op_type, x, number(int(np.median(graph.values[x]))))]
    if kind == "sum":
        return [graph.add("ReduceSum", x, np.array([0], "int64"), keepdims=1)]
    op_type = {"add": "Add", "mul": "Mul", "mod": "Mod", "div": "Div"}[kind]
    return [graph.add(op_type, x, number(graph.between(1, 5)))]


RULES = (
    (4.0, unary),
    (1.0, guarded),
    (0.7, power),
    (0.7, clip),
    (1.5, written_out),
    (4.0, binary),
    (2.0, residual),
    (0.5, several),
    (0.7, where),
    (0.4, masks),
    (0.2, stepped),
    (0.8, integers),
)
