"""Resize along any axes, by the scales that the file gives.

A resized axis is a product with a constant matrix, ``y[o] = sum_i weights[o, i] x[i]``, whose rows
hold one, two or four values, or more if an antialiasing filter is asked for. The nearest pixels are
taken by their indices. TVM's converter is kept where it computes the same and the passes know its
operator: for interpolations of images whose axes are scaled by ``output size / input size``, and
where pixels are repeated a whole number of times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from tvm_sparse.frontends.converters.node import Node


def resize(node: Node) -> Any:
    """Convert Resize, of opset 11 and newer."""
    shape = node.shape(0)
    axes = [axis % len(shape) for axis in node.ints("axes", range(len(shape)))]
    mode = node.text("mode", "nearest")
    places = node.text("coordinate_transformation_mode", "half_pixel")
    antialias = bool(node.attributes.get("antialias", 0))
    for of_other_modes in ("nearest_mode", "cubic_coeff_a", "extrapolation_value"):
        node.attributes.get(of_other_modes)
    exclude = bool(node.attributes.get("exclude_outside", 0))
    scales, sizes = _scales(node, shape, axes)
    if mode == "nearest" and places != "tf_crop_and_resize":
        return _nearest_pixels(node, places, sizes, scales)
    if _fits_tvm(shape, scales, sizes, mode, places) and not antialias:
        return _by_tvm(node, sizes)
    if places == "tf_crop_and_resize":
        raise NotImplementedError(f"its attribute 'coordinate_transformation_mode' is {places!r}")
    if node.dtype(0) not in ("float32", "float64", "float16"):
        raise NotImplementedError(f"it is not supported for {node.dtype(0)}")
    result = node.inputs[0]
    for axis, (size, new, scale) in enumerate(zip(shape, sizes, scales, strict=True)):
        if scale == 1 and size == new:
            continue
        centres = coordinates(places, size, new, scale)
        weights = interpolation(
            mode,
            centres,
            size,
            stretch=max(1 / scale, 1.0) if antialias else 1.0,
            cubic=float(node.attributes.get("cubic_coeff_a", -0.75)),
            exclude=exclude,
        )
        result = _product(node, result, weights.astype(node.dtype(0)), axis)
    return result


def _scales(node: Node, shape: list[int], axes: list[int]) -> tuple[list[float], list[int]]:
    """Return the scale and the new size of every axis."""
    node.inputs[1]  # regions of interest matter for tf_crop_and_resize only
    given, wanted = node.constant(2, "scales"), node.constant(3, "sizes")
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    scales, sizes = [1.0] * len(shape), list(shape)
    if wanted is not None and wanted.size:
        ratios = [float(size) / shape[axis] for axis, size in zip(axes, wanted, strict=True)]
        if policy != "stretch":
            common = min(ratios) if policy == "not_larger" else max(ratios)
            for axis in axes:
                scales[axis], sizes[axis] = common, int(np.floor(common * shape[axis] + 0.5))
        else:
            for axis, size, ratio in zip(axes, wanted, ratios, strict=True):
                scales[axis], sizes[axis] = ratio, int(size)
    elif given is not None and given.size:
        for axis, scale in zip(axes, given, strict=True):
            scales[axis] = float(scale)
            sizes[axis] = int(np.floor(np.float32(shape[axis]) * np.float32(scale)))
    else:
        raise NotImplementedError("it has neither 'scales' nor 'sizes'")
    return scales, sizes


def _by_tvm(node: Node, sizes: list[int]) -> Any:
    node.inputs[:] = [node.inputs[0], None, None, relax.const(np.array(sizes, "int64"))]
    return node.by_tvm()


def _nearest_pixels(node: Node, places: str, sizes: list[int], scales: list[float]) -> Any:
    """Take the nearest pixels, which ONNX Runtime's rounding in float32 decides."""
    shape, rounding = node.shape(0), node.text("nearest_mode", "round_prefer_floor")
    pixels = [
        np.clip(_nearest(rounding, coordinates(places, size, new, scale)), 0, size - 1)
        for size, new, scale in zip(shape, sizes, scales, strict=True)
    ]
    are_repeated = all(
        new % size == 0 and np.array_equal(rows, np.arange(new) // (new // size))
        for size, new, rows in zip(shape, sizes, pixels, strict=True)
    )
    if are_repeated and len(shape) in (3, 4, 5) and shape[:2] == sizes[:2]:
        node.attributes["coordinate_transformation_mode"] = b"asymmetric"
        node.attributes["nearest_mode"] = b"floor"
        return _by_tvm(node, sizes)
    result = node.inputs[0]
    for axis, (size, rows) in enumerate(zip(shape, pixels, strict=True)):
        if not np.array_equal(rows, np.arange(size)):
            taken = relax.op.take(result, relax.const(rows.astype("int64")), axis, mode="clip")
            result = node.emit(taken)
    return result


def _fits_tvm(
    shape: list[int], scales: list[float], sizes: list[int], mode: str, places: str
) -> bool:
    """Return whether TVM's converter computes the same places."""
    if len(shape) not in (3, 4, 5) or scales[:2] != [1, 1] or mode == "cubic":
        return False
    if places not in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
        return False
    if places == "align_corners":
        return 1 not in sizes[2:]  # it divides by the distance of the corners
    return all(scale == new / size for size, new, scale in zip(shape, sizes, scales, strict=True))


def coordinates(places: str, size: int, new: int, scale: float) -> np.ndarray:
    """Return where the pixels of the output lie in the input, as `size` pixels from 0 on.

    The arithmetic is float32, as in ONNX Runtime: it decides which pixel is the nearest one.
    """
    at, half, by = np.arange(new, dtype="float32"), np.float32(0.5), np.float32(scale)
    if places == "asymmetric":
        return at / by
    if places == "align_corners":
        return at * np.float32(size - 1) / np.float32(new - 1) if new > 1 else np.zeros(1)
    if places == "half_pixel":
        return (at + half) / by - half
    if places == "pytorch_half_pixel":
        return (at + half) / by - half if new > 1 else np.zeros(1)
    if places == "half_pixel_symmetric":
        adjusted = np.float32(new) / (by * np.float32(size))
        offset = np.float32(size) / 2 * (1 - adjusted)
        return offset + ((at + half) / by - half)
    raise NotImplementedError(f"its attribute 'coordinate_transformation_mode' is {places!r}")


def _nearest(rounding: str, centres: np.ndarray) -> np.ndarray:
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    return rules[rounding](centres)


def interpolation(
    mode: str, centres: np.ndarray, size: int, stretch: float, cubic: float, exclude: bool
) -> np.ndarray:
    """Return the weights of linear or cubic interpolation, (outputs, inputs), float64.

    Parameters
    ----------
    mode : str
        "linear" or "cubic".
    centres : numpy.ndarray
        Where the outputs lie, in pixels of the input.
    size : int
        The number of inputs; outside of them lie copies of the first and the last one.
    stretch : float
        How much wider than usual the filter is; above 1 for antialiasing.
    cubic : float
        The coefficient of cubic interpolation.
    exclude : bool
        Whether what lies outside weighs nothing instead.
    """
    reach = (1 if mode == "linear" else 2) * stretch
    filter_of = _triangle if mode == "linear" else lambda x: _cubic(x, cubic)
    weights = np.zeros((len(centres), size))
    for row, centre in enumerate(centres):
        taps = np.arange(int(np.floor(centre - reach)), int(np.ceil(centre + reach)) + 1)
        values = filter_of(np.abs(taps - centre) / stretch)
        if exclude or stretch > 1:
            values = np.where((taps >= 0) & (taps < size), values, 0) if exclude else values
            values = values / values.sum()
        np.add.at(weights[row], np.clip(taps, 0, size - 1), values)
    return weights


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distance, 0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    x, x2, x3 = distance, distance**2, distance**3
    near = (a + 2) * x3 - (a + 3) * x2 + 1
    far = a * x3 - 5 * a * x2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _product(node: Node, x: relax.Expr, weights: np.ndarray, axis: int) -> relax.Expr:
    """Return the product of `weights`, (outputs, inputs), with one axis of `x`."""
    rank = x.ty.ndim
    if axis == rank - 1:
        return node.emit(
            relax.op.matmul(x, relax.const(np.ascontiguousarray(weights.T), str(weights.dtype)))
        )
    order = [*(i for i in range(rank) if i != axis), axis]
    last = node.emit(relax.op.permute_dims(x, order))
    product = node.emit(
        relax.op.matmul(last, relax.const(np.ascontiguousarray(weights.T), str(weights.dtype)))
    )
    return node.emit(relax.op.permute_dims(product, list(np.argsort(order))))
