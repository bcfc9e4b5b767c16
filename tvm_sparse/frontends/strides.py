"""The numbers that must divide open heights and widths: the strides of a network, multiplied.

A network that halves its images and enlarges them again joins images of equal height only if their
heights were even at every step. So an open height is a multiple of all strides on a way through
the network, and every height inside is a whole number of it. The same holds for widths. A network
that only makes its images smaller takes any height.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.external_data_helper import uses_external_data

from tvm_sparse.frontends.named_shapes import OF_IMAGES, Shape, computed_from_values
from tvm_sparse.frontends.onnx_file import tensor_array

HEIGHT, WIDTH = 2, -1
"""The axes of images ``(batch, channels, height, width)``; sound ``(batch, channels, width)`` has
the second one only."""

_ENLARGING = ("Resize", "Upsample", "ConvTranspose", "DepthToSpace", "MaxUnpool", "GridSample")

_WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "QLinearConv")
_SCALES = {"Resize": 2, "Upsample": 1}
"""The operand with the factors of operators that enlarge."""


def multiples_of(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Return the number that must divide each open height and width, by its name.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    shapes : mapping of str to shape
        The shapes of its inputs.
    """
    if not {node.op_type for node in model.graph.node} & OF_IMAGES:
        return {}
    found: dict[str, int] = {}
    for axis, ranks in ((HEIGHT, (4,)), (WIDTH, (3, 4))):
        names = {shape[axis] for shape in shapes.values() if len(shape) in ranks}
        for name in sorted(name for name in names if isinstance(name, str)):
            found[name] = math.lcm(found.get(name, 1), total_stride(model, axis))
    return found


def enlarges(model: onnx.ModelProto) -> bool:
    """Whether a model makes images larger, which it may join with others of their size."""
    values = computed_from_values(model)
    return any(n.op_type in _ENLARGING and n.input[0] in values for n in model.graph.node)


def total_stride(model: onnx.ModelProto, axis: int = HEIGHT) -> int:
    """Return the least number that all strides along an axis of images divide.

    The strides on a way through the network are multiplied.
    """
    constants = _constants(model)
    strides: dict[str, Fraction] = {value.name: Fraction(1) for value in model.graph.input}
    seen = {1}
    for node in model.graph.node:
        known = [strides[name] for name in node.input if name in strides]
        if not known:
            continue
        stride = max(known) * _own_stride(node, constants, axis)
        seen.add(stride.numerator)
        for name in node.output if stride else ():
            strides[name] = stride
    return math.lcm(*seen - {0})


def _own_stride(node: onnx.NodeProto, constants: Mapping[str, Any], axis: int) -> Fraction:
    """Return how many pixels of its input a pixel of a node's output stands for; 0 if unknown."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in (*_WINDOWS, "ConvTranspose"):
        strides: Sequence[int] = attributes.get("strides", (1, 1))
        along = Fraction(strides[-1] if axis == WIDTH else strides[-2] if len(strides) > 1 else 1)
        return 1 / along if node.op_type == "ConvTranspose" else along
    if node.op_type == "Slice":
        return Fraction(_step(node, constants, axis))
    if node.op_type in ("DepthToSpace", "SpaceToDepth"):
        block = Fraction(attributes["blocksize"])
        return block if node.op_type == "SpaceToDepth" else 1 / block
    if node.op_type in _SCALES:
        place = _SCALES[node.op_type]
        name = node.input[place] if len(node.input) > place else ""
        scales = np.asarray(constants.get(name, attributes.get("scales", ())), "float64").ravel()
        if len(scales) not in (3, 4) or (axis == HEIGHT and len(scales) == 3) or scales[axis] <= 0:
            return Fraction(0)  # it takes the size of another image, which is known
        return 1 / Fraction(float(scales[axis])).limit_denominator(64)
    return Fraction(1)


def _step(node: onnx.NodeProto, constants: Mapping[str, Any], axis: int) -> int:
    """Return from which pixel to which a slice goes along an axis of images."""
    if len(node.input) < 5:
        return 1
    axes, steps = (constants.get(name) for name in node.input[3:5])
    if axes is None or steps is None:
        return 1
    wanted = {HEIGHT} if axis == HEIGHT else {WIDTH, 3}
    along = zip(np.ravel(axes).tolist(), np.ravel(steps).tolist(), strict=True)
    return max((abs(int(step)) for own, step in along if own in wanted), default=1)


def _constants(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the small constants of a model by name."""
    found = {
        tensor.name: tensor_array(tensor, Path())
        for tensor in model.graph.initializer
        if math.prod(tensor.dims) <= 8 and not uses_external_data(tensor)
    }
    for node in model.graph.node:
        is_tensor = node.op_type == "Constant" and node.attribute[0].name == "value"
        if is_tensor and math.prod(node.attribute[0].t.dims) <= 8:
            found[node.output[0]] = tensor_array(node.attribute[0].t, Path())
    return found
