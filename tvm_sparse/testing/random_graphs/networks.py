"""Rules that add whole parts of known networks, in which views stand between layers."""

from __future__ import annotations

import numpy as np

from tvm_sparse.testing.random_graphs.arithmetic import activate, scalar
from tvm_sparse.testing.random_graphs.graph import Graph
from tvm_sparse.testing.random_graphs.images import conv
from tvm_sparse.testing.random_graphs.reductions import layer_norm, reduce
from tvm_sparse.testing.random_graphs.run_nodes import Array, Unfit
from tvm_sparse.testing.random_graphs.tokens import linear, linear_or_same


def _ints(values: list[int]) -> Array:
    return np.array(values, "int64")


def gated(graph: Graph) -> list[str]:
    """Multiply one half of the channels by a function of the other half."""
    x = graph.pick(lambda a: a.ndim > 1 and any(size % 2 == 0 for size in a.shape))
    shape = graph.shape(x)
    axis = graph.choice([i for i, size in enumerate(shape) if size % 2 == 0])
    half = _ints([shape[axis] // 2] * 2)
    a, b = graph.add_all("Split", x, half, outputs=2, axis=graph.axis(len(shape), axis))
    gate = b if graph.chance(0.3) else activate(graph, b, graph.choice(["Sigmoid", None]))
    return [graph.add("Mul", a, gate)]


def rotary(graph: Graph) -> list[str]:
    """Rotate the halves of the last axis by constant angles, as position embeddings do."""
    x = graph.pick(lambda a: a.ndim > 2 and a.shape[-1] % 2 == 0)
    shape = graph.shape(x)
    width, axis = shape[-1], len(shape) - 1
    low = graph.add("Slice", x, _ints([0]), _ints([width // 2]), _ints([axis]))
    high = graph.add("Slice", x, _ints([width // 2]), _ints([2**31]), _ints([axis]))
    turned = graph.add("Concat", graph.add("Neg", high), low, axis=-1)
    angles = graph.normal([1] * (len(shape) - 2) + [shape[-2], width])
    first = graph.add("Mul", x, np.cos(angles))
    return [graph.add("Add", first, graph.add("Mul", turned, np.sin(angles)))]


def rolled(graph: Graph) -> list[str]:
    """Move rows that leave at one end in at the other end."""
    x = graph.pick(lambda a: max(a.shape, default=1) > 1)
    shape = graph.shape(x)
    axis = graph.choice([i for i, size in enumerate(shape) if size > 1])
    cut = graph.between(1, shape[axis] - 1)
    head = graph.add("Slice", x, _ints([0]), _ints([cut]), _ints([axis]))
    tail = graph.add("Slice", x, _ints([cut]), _ints([2**31]), _ints([axis]))
    return [graph.add("Concat", tail, head, axis=axis)]


def windows(graph: Graph) -> list[str]:
    """Cut an image into windows of tokens, work on each, and put it together again."""
    x = graph.pick(lambda a: a.ndim == 4 and a.shape[1] > 1 and a.shape[2] * a.shape[3] > 1)
    batch, channels, height, width = graph.shape(x)
    rows = graph.choice([f for f in range(1, height + 1) if height % f == 0])
    columns = graph.choice([f for f in range(1, width + 1) if width % f == 0])
    cut = [batch, channels, height // rows, rows, width // columns, columns]
    y = graph.add("Reshape", x, _ints(cut))
    y = graph.add("Transpose", y, perm=[0, 2, 4, 3, 5, 1])
    y = graph.add("Reshape", y, _ints([-1, rows * columns, channels]))
    z = linear_or_same(graph, y)
    if graph.chance(0.3):
        return [z]
    z = graph.add("Reshape", z, _ints([batch, cut[2], cut[4], rows, columns, channels]))
    z = graph.add("Transpose", z, perm=[0, 5, 1, 3, 2, 4])
    z = graph.add("Reshape", z, _ints([batch, channels, height, width]))
    return [graph.add("Add", x, z) if graph.chance(0.5) else z]


def channels_last(graph: Graph) -> list[str]:
    """Add a block of ConvNeXt: a depthwise convolution, then layers with channels last."""
    x = graph.pick(lambda a: a.ndim in (3, 4) and 1 < a.shape[1] <= 32)
    channels, rank = graph.shape(x)[1], len(graph.shape(x))
    kernel = graph.choice([1, 3, 5])
    window = {"kernel_shape": [kernel] * (rank - 2), "pads": [kernel // 2] * (2 * (rank - 2))}
    y = conv(graph, x, channels, channels, window) if graph.chance(0.7) else x
    y = graph.add("Transpose", y, perm=[0, *range(2, rank), 1])
    y = layer_norm(graph, y, rank - 1)[0] if graph.chance(0.7) else y
    y = activate(graph, linear(graph, y, 2 * channels), graph.choice(["Relu", "Gelu", None]))
    y = linear(graph, y, channels)
    if graph.chance(0.5):
        y = graph.add("Mul", y, graph.normal([channels]))
    y = graph.add("Transpose", y, perm=[0, rank - 1, *range(1, rank - 1)])
    return [graph.add("Add", x, y) if graph.chance(0.7) else y]


def patches(graph: Graph) -> list[str]:
    """Make tokens of the patches of an image, with a class token and positions."""
    x = graph.pick(lambda a: a.ndim == 4 and min(a.shape[2:]) > 1)
    batch, _, height, width = graph.shape(x)
    size = [graph.between(1, min(4, height)), graph.between(1, min(4, width))]
    channels = graph.choice([8, 12, 16, 24])
    y = conv(graph, x, channels, 1, {"kernel_shape": size, "strides": size})
    y = graph.add("Reshape", y, _ints([0, channels, -1]))
    y = graph.add("Transpose", y, perm=[0, 2, 1])
    if graph.chance(0.6):
        first = graph.add("Expand", graph.normal([1, 1, channels]), _ints([batch, 1, channels]))
        y = graph.add("Concat", first, y, axis=1)
    if graph.chance(0.7):
        y = graph.add("Add", y, graph.normal([1, graph.shape(y)[1], channels]))
    return [y]


def class_token(graph: Graph) -> list[str]:
    """Read one token, and classify it."""
    x = graph.pick(lambda a: a.ndim == 3)
    place = graph.choice([0, -1])
    if graph.chance(0.5):
        y = graph.add("Gather", x, np.asarray(place, "int64"), axis=1)
    else:
        end = 1 if place == 0 else 2**31
        y = graph.add("Slice", x, _ints([place]), _ints([end]), _ints([1]))
        y = graph.add("Squeeze", y, _ints([1]))
    return [linear(graph, y, graph.choice([2, 10, 16]))]


def masked_mean(graph: Graph) -> list[str]:
    """Return the mean of those tokens that a mask keeps."""
    x = graph.pick(lambda a: a.ndim == 3)
    batch, tokens, width = graph.shape(x)
    mask = graph.rng.random((batch, tokens)) < 0.6
    name = graph.input(mask if graph.chance(0.5) else mask.astype("int64"))
    kept = graph.add("Cast", graph.add("Unsqueeze", name, _ints([2])), to=1)
    if graph.chance(0.5):
        kept = graph.add("Expand", kept, _ints([batch, tokens, width]))
    total = reduce(graph, "ReduceSum", graph.add("Mul", x, kept), [1], False)
    count = reduce(graph, "ReduceSum", kept, [1], False)
    return [graph.add("Div", total, graph.add("Clip", count, np.asarray(np.float32(1e-3))))]


def dense_block(graph: Graph) -> list[str]:
    """Join the results of convolutions with what they read, and mix the channels."""
    x = graph.pick(lambda a: a.ndim == 4 and a.shape[1] <= 24)
    three = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    parts = [x]
    for _ in range(graph.between(1, 2)):
        source = parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)
        y = conv(graph, source, graph.choice([3, 4, 8]), 1, three)
        parts.append(activate(graph, y, "Relu") if graph.chance(0.8) else y)
    joined = graph.add("Concat", *parts, axis=graph.choice([1, -3]))
    channels = graph.shape(x)[1]
    return [conv(graph, joined, channels, 1, {"kernel_shape": [1, 1]})]


def pyramid(graph: Graph) -> list[str]:
    """Shrink an image, work on it, enlarge it, and join it with what it was."""
    x = graph.pick(lambda a: a.ndim == 4 and min(a.shape[2:]) > 1 and a.shape[1] <= 24)
    channels = graph.shape(x)[1]
    stride = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    if graph.chance(0.5):
        small = conv(graph, x, channels, 1, stride)
    else:
        small = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    small = activate(graph, conv(graph, small, channels, 1, {"kernel_shape": [1, 1]}), "Relu")
    mode = graph.choice(["nearest", "linear"])
    sizes = _ints(list(graph.shape(x)))
    place = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        place["nearest_mode"] = "floor"
    large = graph.add("Resize", small, None, None, sizes, **place)
    if graph.chance(0.5):
        return [graph.add("Add", large, x)]
    return [graph.add("Concat", large, x, axis=1)]


def wide(graph: Graph) -> list[str]:
    """Compute a part in double precision."""
    x = graph.add("Cast", graph.pick(), to=11)
    y = graph.add(graph.choice(["Tanh", "Exp", "Neg", "Sigmoid"]), x)
    return [graph.add("Cast", graph.add("Add", x, y) if graph.chance(0.5) else y, to=1)]


def windows_of_heads(graph: Graph) -> list[str]:
    """Add attention whose heads are the first axis, as it is written for a batch of one."""
    x = graph.pick(lambda a: a.ndim == 2 or (a.ndim == 3 and a.shape[0] == 1))
    tokens, width = graph.shape(x)[-2:]
    heads = graph.choice([2, 3, 4])
    size = graph.choice([4, 8])
    if tokens > 64:
        raise Unfit("the sequence is too long")

    def split(perm: list[int]) -> str:
        y = graph.add("Reshape", linear(graph, x, heads * size), _ints([tokens, heads, size]))
        return graph.add("Transpose", y, perm=perm)

    q, k, v = split([1, 0, 2]), split([1, 2, 0]), split([1, 0, 2])
    scores = graph.add("Mul", graph.add("MatMul", q, k), scalar(graph, size**-0.5))
    if graph.chance(0.5):
        scores = graph.add("Add", scores, graph.normal([heads, tokens, tokens]))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=2), v)
    merged = graph.add("Transpose", mixed, perm=[1, 0, 2])
    shape = [*graph.shape(x)[:-1], heads * size]
    y = linear(graph, graph.add("Reshape", merged, _ints(shape)), width)
    return [graph.add("Add", y, x)]


RULES = (
    (0.7, gated),
    (0.7, rotary),
    (0.5, rolled),
    (1.0, windows),
    (1.0, channels_last),
    (0.7, patches),
    (0.5, class_token),
    (0.4, masked_mean),
    (0.7, dense_block),
    (0.7, pyramid),
    (0.3, wide),
    (0.5, windows_of_heads),
)
