"""Operators that move, cut or repeat values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.frontends.converters.node import Node
from tvm_sparse.schedules.operators.checked_copy import MOST, within


def slicing(node: Node) -> Any:
    """Convert Slice; one that selects nothing is an empty constant."""
    given = [node.inputs[i] for i in range(1, 5)]
    known = all(value is None or isinstance(value, tvm.ir.GenericConst) for value in given)
    if not known or isinstance(node.inputs[0], relax.ShapeExpr) or node.opset < 10:
        _check_axes(node)
        return node.by_tvm()
    shape = node.shape(0)
    starts, ends = node.required(1, "starts"), node.required(2, "ends")
    axes, steps = node.constant(3, "axes"), node.constant(4, "steps")
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), "int64") if steps is None else steps
    result = list(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        result[axis] = len(range(shape[axis])[slice(int(start), int(end), int(step))])
    if 0 in result:
        return relax.const(np.zeros(result, node.dtype(0)), node.dtype(0))
    return node.by_tvm()


def _check_axes(node: Node) -> None:
    """Check the axes of a Slice that are known at run time only."""
    axes = node.inputs[3]
    if isinstance(axes, relax.Var) and isinstance(axes.ty, relax.TensorType):
        rank = node.inputs[0].ty.ndim
        text = f"an axis is not one of the {rank} of the input"
        node.inputs[3] = node.checked(3, within([rank], from_end=True), text)


def tile(node: Node) -> Any:
    """Convert Tile; how often to repeat may be known at run time only."""
    repeats = node.inputs[1]
    if isinstance(repeats, relax.Var) and isinstance(repeats.ty, relax.TensorType):
        # Each has 31 bits, then, so that its product with a size does not overflow.
        text = "a number of repetitions is out of range"
        node.inputs[1] = node.checked(1, within([MOST + 1]), text)
    return node.by_tvm()


def expand(node: Node) -> Any:
    """Convert Expand; an axis of the input that is longer than 1 keeps its length."""
    wanted = node.inputs[1]
    if not isinstance(wanted, relax.Var) or isinstance(wanted.ty, relax.ShapeType):
        return node.by_tvm()
    shape, (axes,) = node.shape(0), node.shape(1)
    sizes = [tvm.tirx.Var(f"size_{axis}", "int64") for axis in range(axes)]
    known = [*[1] * max(axes - len(shape), 0), *shape][-axes:] if axes else []

    def fits(size: Any, position: Any) -> Any:
        valid = size >= 0
        for axis, old in enumerate(known):
            is_kept = tvm.tirx.Or(size == 1, size == old)
            valid = (
                tvm.tirx.And(valid, tvm.tirx.Or(position != axis, is_kept)) if old != 1 else valid
            )
        return valid

    wanted = node.checked(1, fits, f"sizes to which {shape} cannot be expanded", product=True)
    length = node.emit(relax.op.tensor_to_shape(wanted))
    node.builder.match_cast(length, relax.ShapeType(sizes))
    rank = max(len(shape), axes)
    aligned = [*[1] * (rank - axes), *sizes]
    result = [
        new if size == 1 else size
        for size, new in zip([*[1] * (rank - len(shape)), *shape], aligned, strict=True)
    ]
    return relax.op.broadcast_to(node.inputs[0], relax.ShapeExpr(result))


def split(node: Node) -> Any:
    """Convert Split; of equal parts that do not fill the axis, the last ones are shorter."""
    axis, parts = int(node.attributes.get("axis", 0)), node.attributes.get("num_outputs")
    if isinstance(node.inputs[0], relax.ShapeExpr):
        return node.by_tvm()
    size = node.shape(0)[axis]
    if node.opset < FIRST_WITH_SIZES:
        sizes = node.ints("split", ())
    else:
        given = node.constant(1, "split")
        sizes = [] if given is None else [int(part) for part in given]
    if not sizes:
        number = int(parts or node.outputs)
        part = -(-size // number)
        sizes = [max(min(part, size - i * part), 0) for i in range(number)]
    ends = [int(end) for end in np.cumsum([part for part in sizes if part])]
    if len(ends) < 2:
        filled = iter([node.inputs[0]])
    else:
        parts = node.emit(relax.op.split(node.inputs[0], ends[:-1], axis))
        filled = iter([relax.TupleGetItem(parts, position) for position in range(len(ends))])
    empty = list(node.shape(0))
    empty[axis] = 0
    nothing = relax.const(np.zeros(empty, node.dtype(0)), node.dtype(0))
    return relax.Tuple([node.emit(next(filled)) if part else nothing for part in sizes])


FIRST_WITH_SIZES = 13
"""The first opset in which Split has the sizes of its parts as an input."""


def top_k(node: Node) -> Any:
    """Convert TopK; TVM takes all values where ONNX takes none, and sorts what may be unsorted."""
    shape, axis = node.shape(0), int(node.attributes.get("axis", -1))
    number = node.attributes.get("k") if node.opset < 10 else node.required(1, "K").item()
    if number != 0:
        if not node.attributes.get("sorted", 1):
            node.attributes["sorted"] = 1
        return node.by_tvm()
    for of_order in ("largest", "sorted"):
        node.attributes.get(of_order)
    shape[axis] = 0
    return relax.Tuple(
        [relax.const(np.zeros(shape, dtype), dtype) for dtype in (node.dtype(0), "int64")]
    )


def space_to_depth(node: Node) -> Any:
    """Convert SpaceToDepth; its two modes differ in the order of the new channels."""
    block = int(node.attributes["blocksize"])
    n, c, h, w = node.shape(0)
    mode = node.text("mode", "DCR")
    split = node.emit(
        relax.op.reshape(node.inputs[0], (n, c, h // block, block, w // block, block))
    )
    order = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    moved = node.emit(relax.op.permute_dims(split, order))
    return relax.op.reshape(moved, (n, c * block * block, h // block, w // block))


def pad(node: Node) -> Any:
    """Convert Pad without pads below zero, which cut."""
    pads = node.attributes.get("pads") if node.opset < 11 else node.constant(1, "pads")
    if pads is not None and min(pads, default=0) < 0:
        raise NotImplementedError("its input 'pads' has values below zero")
    if node.opset >= 11:
        node.constant(2, "constant_value")
    return node.by_tvm()


def max_unpool(node: Node) -> Any:
    """Convert MaxUnpool with the same padding on all sides."""
    pads = node.ints("pads", [0])
    if len(set(pads)) > 1:
        raise NotImplementedError("its attribute 'pads' differs from side to side")
    kernel = node.ints("kernel_shape", [])
    strides = node.ints("strides", [1] * len(kernel))
    pads = node.ints("pads", [0] * 2 * len(kernel))
    shape = node.shape(0)
    edges = [
        (size - 1) * stride + window - 2 * pad
        for size, stride, window, pad in zip(shape[2:], strides, kernel, pads, strict=False)
    ]
    most = math.prod([*shape[:2], *edges])
    node.inputs[1] = node.checked(1, within([most]), f"an index is not below {most}")
    return node.by_tvm()


def roi_align(node: Node) -> Any:
    """Convert RoiAlign with averages; TVM's maximum is another one."""
    mode = node.text("mode", "avg")
    places = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    places = node.text("coordinate_transformation_mode", places)
    if mode != "avg":
        raise NotImplementedError(f"its attribute 'mode' is {mode!r}")
    if places == "half_pixel" and float(node.attributes.get("spatial_scale", 1.0)) != 1:
        raise NotImplementedError("its attribute 'spatial_scale' is not 1")
    images = node.shape(0)[0]
    node.inputs[2] = node.checked(2, within([images]), f"an image is not one of {images}")
    return node.by_tvm()


def max_roi_pool(node: Node) -> Any:
    """Refuse MaxRoiPool: TVM's operator takes images that are not there."""
    raise NotImplementedError(f"TVM's {node.op_type} does not check its images")


def numbers(node: Node) -> Any:
    """Convert Range of constants; TVM's of numbers that are computed does not check its size."""
    for position, name in enumerate(("start", "limit", "delta")):
        node.constant(position, name)
    return node.by_tvm()


def non_max_suppression(node: Node) -> Any:
    """Refuse NonMaxSuppression: TVM's operator keeps other boxes than ONNX prescribes."""
    raise NotImplementedError(f"TVM's {node.op_type} keeps other boxes")
