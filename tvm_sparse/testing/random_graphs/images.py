"""Rules of convolutional networks: convolutions, pooling, resizes, and what stands between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from tvm_sparse.testing.random_graphs.arithmetic import activate
from tvm_sparse.testing.random_graphs.graph import Graph
from tvm_sparse.testing.random_graphs.reductions import batch_norm
from tvm_sparse.testing.random_graphs.run_nodes import Array, Unfit

_CHANNELS = (1, 3, 5, 8, 8, 12, 16, 16, 17, 24)


def _is_image(array: Array) -> bool:
    """Whether an array has a batch, channels, and one to three spatial axes."""
    return array.ndim in (3, 4, 4, 5) and array.shape[1] <= 48


def random_window(graph: Graph, sizes: tuple[int, ...], most: int = 5) -> dict[str, Any]:
    """Return the attributes of a window that fits an image."""
    rank = len(sizes)
    largest = [min(size, most) for size in sizes]
    kernel = [graph.between(1, size) for size in largest]
    if graph.chance(0.4):
        kernel = [min(3, size) for size in largest]
    window: dict[str, Any] = {"kernel_shape": kernel}
    if graph.chance(0.4):
        window["strides"] = [graph.between(1, 3) for _ in range(rank)]
    if graph.chance(0.2):
        window["dilations"] = [graph.between(1, 2) for _ in range(rank)]
    how = graph.choice(["same", "same", "none", "uneven", "auto"])
    if how == "same":
        window["pads"] = [(size - 1) // 2 for size in kernel] * 2
    elif how == "uneven":
        window["pads"] = [graph.between(0, size // 2) for size in kernel * 2]
    elif how == "auto":
        window["auto_pad"] = graph.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        # ONNX Runtime refuses SAME with dilations, or pads for a window that is not dilated.
        window.pop("dilations", None)
    return window


def conv(graph: Graph, x: str, channels: int, groups: int, window: dict[str, Any]) -> str:
    """Add a convolution."""
    inputs = graph.shape(x)[1] // groups
    kernel = window["kernel_shape"]
    shape = [channels, inputs, *kernel]
    operands = [graph.weight(shape, int(np.prod(shape[1:])))]
    if graph.chance(0.6):
        operands.append(graph.vector(channels))
    return graph.add("Conv", x, *operands, group=groups, **window)


def _finished(graph: Graph, y: str, x: str) -> str:
    """Add what follows a convolution: a normalization, an activation, a residual."""
    if graph.chance(0.4):
        y = batch_norm(graph, y)
    is_late = graph.chance(0.5)
    if not is_late and graph.chance(0.6):
        y = activate(graph, y)
    if graph.shape(x) == graph.shape(y) and graph.chance(0.6):
        y = graph.add("Add", *((x, y) if graph.chance(0.5) else (y, x)))
    return activate(graph, y, graph.choice([None, "Relu"])) if is_late else y


def convolution(graph: Graph) -> list[str]:
    """Add a convolution of one or more groups, or a depthwise one."""
    x = graph.pick(_is_image)
    inputs = graph.shape(x)[1]
    channels, groups = graph.choice(_CHANNELS), 1
    kind = graph.choice(["plain", "plain", "keep", "depthwise", "grouped", "pointwise"])
    window = random_window(graph, graph.shape(x)[2:])
    if kind in ("keep", "depthwise"):
        channels = inputs
    if kind == "depthwise":
        groups, channels = inputs, inputs * graph.choice([1, 1, 1, 2])
    if kind == "grouped":
        groups = graph.choice([f for f in range(1, inputs + 1) if inputs % f == 0])
        channels = groups * graph.between(1, 6)
    if kind == "pointwise":
        window["kernel_shape"] = [1 for _ in window["kernel_shape"]]
        window.pop("pads", None)
    return [_finished(graph, conv(graph, x, channels, groups, window), x)]


def bottleneck(graph: Graph) -> list[str]:
    """Add three convolutions and a residual, as in ResNet and MobileNet."""
    x = graph.pick(lambda a: a.ndim == 4 and a.shape[1] <= 32)
    inputs = graph.shape(x)[1]
    point = {"kernel_shape": [1, 1]}
    three = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    inner = inputs * 2 if graph.chance(0.5) else max(inputs // 2, 1)
    y = activate(graph, conv(graph, x, inner, 1, point), graph.choice(["Relu", "HardSwish", None]))
    groups = inner if graph.chance(0.5) else 1
    y = activate(graph, conv(graph, y, inner, groups, three), "Relu")
    if graph.chance(0.3):
        y = _squeezed(graph, y)
    y = graph.add("Add", x, conv(graph, y, inputs, 1, point))
    return [activate(graph, y, "Relu") if graph.chance(0.5) else y]


def _squeezed(graph: Graph, x: str) -> str:
    """Scale channels by what their means say (squeeze and excitation)."""
    channels, point = graph.shape(x)[1], {"kernel_shape": [1, 1]}
    mean = graph.add("GlobalAveragePool", x)
    inner = activate(graph, conv(graph, mean, max(channels // 4, 1), 1, point), "Relu")
    gate = graph.add(
        graph.choice(["Sigmoid", "HardSigmoid"]), conv(graph, inner, channels, 1, point)
    )
    return graph.add("Mul", x, gate)


def transposed(graph: Graph) -> list[str]:
    """Add a transposed convolution."""
    x = graph.pick(lambda a: a.ndim in (3, 4) and a.shape[1] <= 24 and a.size < 1500)
    inputs, rank = graph.shape(x)[1], len(graph.shape(x)) - 2
    groups = graph.choice([1, 1, inputs])
    kernel = [graph.between(1, 4) for _ in range(rank)]
    strides = [graph.between(1, 2) for _ in range(rank)]
    weight = graph.weight([inputs, graph.between(1, 6), *kernel], inputs // groups * 2)
    pads = [graph.between(0, size // 2) for size in kernel * 2]
    attributes = {"kernel_shape": kernel, "strides": strides, "group": groups, "pads": pads}
    return [graph.add("ConvTranspose", x, weight, **attributes)]


def pool(graph: Graph) -> list[str]:
    """Pool windows, or whole images."""
    x = graph.pick(_is_image)
    if graph.chance(0.3):
        return [graph.add(graph.choice(["GlobalAveragePool", "GlobalMaxPool"]), x)]
    window = random_window(graph, graph.shape(x)[2:], 3)
    op_type = graph.choice(["MaxPool", "AveragePool"])
    if op_type == "AveragePool":
        if graph.opset < 19:
            window.pop("dilations", None)
        window["count_include_pad"] = graph.between(0, 1)
    if graph.chance(0.2) and "auto_pad" not in window:
        window["ceil_mode"] = 1
    y = graph.add(op_type, x, **window)
    if _inferred_shape(graph, x) != graph.shape(y):
        # Before opset 22, ONNX's inference counts windows that start behind the image. ONNX Runtime
        # does not compute them, and refuses nodes to which both shapes matter.
        raise Unfit("a window starts behind the image")
    return [y]


def _inferred_shape(graph: Graph, x: str) -> tuple[int, ...]:
    """Return the shape that ONNX's inference says the newest node makes of an image."""
    node = graph.nodes[-1]
    (made,) = onnx.shape_inference.infer_node_outputs(
        onnx.defs.get_schema(node.op_type, graph.opset),
        node,
        {x: helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, graph.shape(x))},
        opset_imports=[helper.make_opsetid("", graph.opset)],
    ).values()
    return tuple(dim.dim_value for dim in made.tensor_type.shape.dim)


def resize(graph: Graph) -> list[str]:
    """Enlarge or shrink images."""
    x = graph.pick(lambda a: a.ndim == 4)
    mode = graph.choice(["nearest", "nearest", "linear", "linear", "cubic"])
    transform = graph.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
    attributes = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        transform = graph.choice(["half_pixel", "asymmetric"])
        rounding = "floor" if transform == "asymmetric" else "round_prefer_floor"
        attributes |= {"coordinate_transformation_mode": transform, "nearest_mode": rounding}
    shape = graph.shape(x)
    if graph.chance(0.5):
        factors = [graph.choice([2.0, 2.0, 3.0, 0.5, 1.0]) for _ in range(2)]
        if min(shape[2] * factors[0], shape[3] * factors[1]) < 1:
            raise Unfit("the image is too small")
        return [graph.add("Resize", x, None, np.array([1, 1, *factors], "float32"), **attributes)]
    sizes = np.array([*shape[:2], graph.between(1, 13), graph.between(1, 13)], "int64")
    return [graph.add("Resize", x, None, None, sizes, **attributes)]


def shuffle(graph: Graph) -> list[str]:
    """Permute channels, or exchange them with pixels."""
    x = graph.pick(lambda a: a.ndim == 4)
    batch, channels, height, width = graph.shape(x)
    if channels % 4 == 0 and graph.chance(0.4):
        mode = graph.choice(["DCR", "CRD"])
        return [graph.add("DepthToSpace", x, blocksize=2, mode=mode)]
    if height % 2 == width % 2 == 0 and graph.chance(0.5):
        return [graph.add("SpaceToDepth", x, blocksize=2)]
    groups = graph.choice([f for f in range(1, channels + 1) if channels % f == 0])
    split = [batch, groups, channels // groups, height, width]
    y = graph.add("Reshape", x, np.array(split, "int64"))
    y = graph.add("Transpose", y, perm=[0, 2, 1, 3, 4])
    return [graph.add("Reshape", y, np.array([batch, channels, height, width], "int64"))]


def to_tokens(graph: Graph) -> list[str]:
    """Make tokens of an image, or an image of tokens."""
    if graph.chance(0.6):
        x = graph.pick(lambda a: a.ndim == 4)
        batch, channels, _, _ = graph.shape(x)
        flat = graph.add("Reshape", x, np.array([batch, channels, -1], "int64"))
        return [graph.add("Transpose", flat, perm=[0, 2, 1])]
    x = graph.pick(lambda a: a.ndim == 3)
    batch, tokens, channels = graph.shape(x)
    height = graph.choice([f for f in range(1, tokens + 1) if tokens % f == 0])
    flat = graph.add("Transpose", x, perm=[0, 2, 1])
    shape = [batch, channels, height, tokens // height]
    return [graph.add("Reshape", flat, np.array(shape, "int64"))]


RULES = (
    (6.0, convolution),
    (2.0, bottleneck),
    (0.5, transposed),
    (2.0, pool),
    (1.0, resize),
    (0.7, shuffle),
    (1.0, to_tokens),
)
