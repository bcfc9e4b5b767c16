"""Rules that move values without changing them."""

from __future__ import annotations

import numpy as np

from tvm_sparse.testing.random_graphs.graph import Graph
from tvm_sparse.testing.random_graphs.run_nodes import Unfit


def _ints(values: list[int]) -> np.ndarray:
    return np.array(values, "int64")


def reshape(graph: Graph) -> list[str]:
    """Merge two dimensions, split one, or make a matrix or a vector."""
    x = graph.pick()
    shape = list(graph.shape(x))
    kind = graph.choice(["merge", "split", "flat", "flatten"])
    if kind == "flatten":
        return [graph.add("Flatten", x, axis=graph.between(0, len(shape)))]
    if kind == "merge" and len(shape) > 1:
        axis = graph.between(0, len(shape) - 2)
        shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    elif kind == "split" and shape:
        axis = graph.between(0, len(shape) - 1)
        factors = [f for f in range(1, shape[axis] + 1) if shape[axis] % f == 0]
        factor = graph.choice(factors)
        shape[axis : axis + 1] = [factor, shape[axis] // factor]
    else:
        shape = [-1] if graph.chance(0.5) else [graph.values[x].size]
    if -1 not in shape and graph.chance(0.3):
        shape[graph.between(0, len(shape) - 1)] = -1
    return [graph.add("Reshape", x, _ints(shape))]


def transpose(graph: Graph) -> list[str]:
    """Permute the dimensions."""
    x = graph.pick(lambda a: a.ndim > 1)
    perm = list(range(len(graph.shape(x))))
    if graph.chance(0.5):
        graph.random.shuffle(perm)
    else:
        i = graph.between(0, len(perm) - 2)
        perm[i], perm[i + 1] = perm[i + 1], perm[i]
    return [graph.add("Transpose", x, perm=perm)]


def unsqueeze(graph: Graph) -> list[str]:
    """Insert a dimension, or drop one of size one."""
    if graph.chance(0.5):
        x = graph.pick(lambda a: 1 in a.shape)
        ones = [i for i, size in enumerate(graph.shape(x)) if size == 1]
        axis = graph.axis(len(graph.shape(x)), graph.choice(ones))
        return [graph.add("Squeeze", x, _ints([axis]))]
    x = graph.pick(lambda a: a.ndim < 5)
    return [graph.add("Unsqueeze", x, _ints([graph.axis(len(graph.shape(x)) + 1)]))]


def slice_(graph: Graph) -> list[str]:
    """Take a part of one or two axes, also backwards or every second element."""
    x = graph.pick(lambda a: a.ndim > 0)
    shape = graph.shape(x)
    axes = graph.random.sample(range(len(shape)), min(len(shape), graph.between(1, 2)))
    starts, ends, steps = [], [], []
    for axis in axes:
        size = shape[axis]
        start = graph.between(0, size - 1)
        end = graph.between(start + 1, size)
        step = graph.choice([1, 1, 1, 2, 3, -1])
        if step < 0:
            start, end = end - 1, start - 1 if start else -(2**31)
        elif graph.chance(0.3):
            start -= size
        if step > 0 and end == size and graph.chance(0.5):
            end = 2**31 - 1
        elif step > 0 and end < size and graph.chance(0.3):
            end -= size
        starts.append(start)
        ends.append(end)
        steps.append(step)
    operands = [_ints(starts), _ints(ends), _ints(axes)]
    if any(step != 1 for step in steps) or graph.chance(0.5):
        operands.append(_ints(steps))
    return [graph.add("Slice", x, *operands)]


def split(graph: Graph) -> list[str]:
    """Split an axis, most often into parts that are all read."""
    x = graph.pick(lambda a: max(a.shape, default=1) > 1)
    shape = graph.shape(x)
    axis = graph.choice([i for i, size in enumerate(shape) if size > 1])
    count = graph.between(2, min(3, shape[axis]))
    if shape[axis] % count == 0 and graph.chance(0.5):
        sizes = [shape[axis] // count] * count
    else:
        cuts = sorted(graph.random.sample(range(1, shape[axis]), count - 1))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, shape[axis]], strict=True)]
    parts = graph.add_all(
        "Split", x, _ints(sizes), outputs=count, axis=graph.axis(len(shape), axis)
    )
    return parts if graph.chance(0.7) else [graph.choice(parts)]


def concat(graph: Graph) -> list[str]:
    """Join tensors along an axis: of the pool, constants, or twice the same one."""
    x = graph.pick(lambda a: a.ndim > 0)
    shape = graph.shape(x)
    axis = graph.between(0, len(shape) - 1)
    parts: list[str | np.ndarray] = [x]
    for _ in range(graph.between(1, 2)):
        try:
            parts.append(graph.pick(lambda a: _fits_beside(a.shape, shape, axis)))
        except Unfit:
            size = [*shape]
            size[axis] = graph.between(1, 3)
            parts.append(graph.normal(size))
    graph.random.shuffle(parts)
    return [graph.add("Concat", *parts, axis=graph.axis(len(shape), axis))]


def _fits_beside(shape: tuple[int, ...], other: tuple[int, ...], axis: int) -> bool:
    def rest(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return sizes[:axis] + sizes[axis + 1 :]

    return len(shape) == len(other) and rest(shape) == rest(other)


def expand(graph: Graph) -> list[str]:
    """Repeat values by Expand or Tile."""
    x = graph.pick(lambda a: a.size < 1000)
    shape = list(graph.shape(x))
    if shape and graph.chance(0.4):
        return [graph.add("Tile", x, _ints([graph.choice([1, 1, 2, 3]) for _ in shape]))]
    target = [size if size > 1 else graph.between(1, 4) for size in shape]
    if len(target) < 4 and graph.chance(0.5):
        target.insert(0, graph.between(1, 3))
    return [graph.add("Expand", x, _ints(target))]


def gather(graph: Graph) -> list[str]:
    """Select rows by constant indices, also negative ones, a single one, or a matrix of them."""
    x = graph.pick(lambda a: a.ndim > 0)
    shape = graph.shape(x)
    axis = graph.between(0, len(shape) - 1)
    size = graph.choice([(), (1,), (3,), (2, 2)])
    lowest = -shape[axis] if graph.chance(0.5) else 0
    if graph.chance(0.2):
        indices = graph.rng.integers(lowest, shape[axis], shape)
        return [graph.add("GatherElements", x, indices, axis=axis)]
    indices = graph.rng.integers(lowest, shape[axis], size).astype(graph.choice(["int32", "int64"]))
    return [graph.add("Gather", x, np.asarray(indices), axis=graph.axis(len(shape), axis))]


def pad(graph: Graph) -> list[str]:
    """Pad one or two axes, differently at both ends."""
    x = graph.pick(lambda a: a.ndim > 0)
    rank = len(graph.shape(x))
    pads = np.zeros((2, rank), "int64")
    for axis in graph.random.sample(range(rank), min(rank, graph.between(1, 2))):
        pads[:, axis] = [graph.between(0, 3), graph.between(0, 3)]
    mode = graph.choice(["constant", "constant", "reflect", "edge"])
    if mode != "constant":
        return [graph.add("Pad", x, pads.ravel(), mode=mode)]
    fill = np.float32(graph.choice([0.0, 0.0, 1.5]))
    return [graph.add("Pad", x, pads.ravel(), np.asarray(fill))]


def trilu(graph: Graph) -> list[str]:
    """Keep a triangle of the last two axes."""
    x = graph.pick(lambda a: a.ndim > 1)
    if graph.opset < 14:
        raise Unfit("Trilu came with opset 14")
    k = np.asarray(graph.between(-2, 2), "int64")
    return [graph.add("Trilu", x, k, upper=graph.between(0, 1))]


def cumsum(graph: Graph) -> list[str]:
    """Sum along an axis, cumulatively."""
    x = graph.pick(lambda a: a.ndim > 0)
    axis = np.asarray(graph.axis(len(graph.shape(x))), "int64")
    flags = {"exclusive": graph.between(0, 1), "reverse": graph.between(0, 1)}
    return [graph.add("CumSum", x, axis, **flags)]


RULES = (
    (3.0, reshape),
    (3.0, transpose),
    (1.5, unsqueeze),
    (2.0, slice_),
    (2.0, split),
    (2.0, concat),
    (1.0, expand),
    (1.0, gather),
    (0.7, pad),
    (0.2, trilu),
    (0.2, cumsum),
)
