"""Convolutions and pooling: what they say about their borders is written as explicit padding.

TVM's converters ignore dilations, strides or the side of an odd pixel in some of the forms that
ONNX has: ``auto_pad``, ``ceil_mode``, ``output_shape``. They get ``pads`` only.

An image of one column becomes one row: vectors hold the pixels of a row. TensorFlow's converters
write sequences as such columns.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvm_sparse.frontends.converters.node import Node


def convolution(node: Node) -> Any:
    """Convert Conv; ``auto_pad`` becomes ``pads``."""
    sizes, kernel = node.shape(0)[2:], node.shape(1)[2:]
    _write_pads(node, sizes, kernel)
    pads = node.ints("pads", [0] * (2 * len(sizes)))
    is_column = len(sizes) == 2 and (sizes[1], kernel[1]) == (1, 1) and sizes[0] > 1
    if is_column and not any(pads[1::2]):
        return _column_convolution(node, pads)
    return node.by_tvm()


def _column_convolution(node: Node, pads: list[int]) -> Any:
    """Convert the convolution of a column of pixels: reshape(conv(reshape(x), reshape(w)))."""
    (batch, _, size, _), (channels, _, kernel, _) = node.shape(0), node.shape(1)
    window = (kernel - 1) * node.ints("dilations", [1, 1])[0] + 1
    pixels = (size + pads[0] + pads[2] - window) // node.ints("strides", [1, 1])[0] + 1
    swapped = {"pads": [0, pads[0], 0, pads[2]]}
    for name in ("dilations", "kernel_shape", "strides"):
        if name in node.attributes:
            swapped[name] = node.ints(name, [])[::-1]
    node.attributes.update(swapped)
    for position in (0, 1):
        outer, inner, length, _ = node.shape(position)
        value, row = node.inputs[position], (outer, inner, 1, length)
        if isinstance(value, tvm.ir.GenericConst):
            node.inputs[position] = relax.const(value.value.numpy().reshape(row))
        else:
            node.inputs[position] = node.emit(relax.op.reshape(value, row))
    return relax.op.reshape(node.by_tvm(), (batch, channels, pixels, 1))


def transposed_convolution(node: Node) -> Any:
    """Convert ConvTranspose; ``auto_pad`` and ``output_shape`` become ``pads``."""
    sizes, kernel = node.shape(0)[2:], node.shape(1)[2:]
    ones = [1] * len(sizes)
    strides, dilations = node.ints("strides", ones), node.ints("dilations", ones)
    added = node.ints("output_padding", [0] * len(sizes))
    wanted = node.ints("output_shape", [])[-len(sizes) :]
    auto_pad = node.text("auto_pad", "NOTSET")
    node.attributes.pop("auto_pad", None)
    node.attributes.pop("output_shape", None)
    if auto_pad.startswith("SAME") and not wanted:
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if wanted:
        begin, end = [], []
        for axis, size in enumerate(wanted):
            window = (kernel[axis] - 1) * dilations[axis] + 1
            total = (sizes[axis] - 1) * strides[axis] + added[axis] + window - size
            if total < 0:
                added[axis] -= total
                total = 0
            first = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            begin.append(first)
            end.append(total - first)
        node.attributes["pads"] = [*begin, *end]
        node.attributes["output_padding"] = added
    elif auto_pad == "VALID":
        node.attributes["pads"] = [0] * (2 * len(sizes))
    if any(more >= stride for more, stride in zip(added, strides, strict=True)):
        raise NotImplementedError("its attribute 'output_padding' is not below its strides")
    return node.by_tvm()


def pooling(node: Node) -> Any:
    """Convert MaxPool, AveragePool and LpPool; ``auto_pad`` and ``ceil_mode`` become ``pads``."""
    sizes, kernel = node.shape(0)[2:], node.ints("kernel_shape", [])
    if node.outputs > 1:
        raise NotImplementedError("its output 'Indices' is not supported")
    _write_pads(node, sizes, kernel)
    rank = len(sizes)
    pads = node.ints("pads", [0] * (2 * rank))
    node.attributes["pads"] = pads
    extra = [0] * rank
    if node.attributes.get("ceil_mode", 0):
        strides, dilations = node.ints("strides", [1] * rank), node.ints("dilations", [1] * rank)
        for axis, size in enumerate(sizes):
            window = (kernel[axis] - 1) * dilations[axis] + 1
            padded = size + pads[axis] + pads[rank + axis]
            windows = -(-(padded - window) // strides[axis]) + 1
            if (windows - 1) * strides[axis] >= size + pads[axis]:
                windows -= 1  # a window that starts behind the image is none
            extra[axis] = max((windows - 1) * strides[axis] + window - padded, 0)
    node.attributes["ceil_mode"] = 0
    if not any(extra):
        return node.by_tvm()
    if node.op_type == "LpPool":
        raise NotImplementedError("its attribute 'ceil_mode' adds windows over the border")
    if node.attributes.get("count_include_pad", 0) and node.op_type == "AveragePool":
        # Declared padding counts as zeros, and what lies behind it does not count.
        if any(pads):
            widths = [0, 0, *pads[:rank], 0, 0, *pads[rank:]]
            interleaved = [
                w for pair in zip(widths[: rank + 2], widths[rank + 2 :], strict=True) for w in pair
            ]
            node.inputs[:] = [node.emit(relax.op.nn.pad(node.inputs[0], interleaved))]
        node.attributes["count_include_pad"] = 0
        pads = [0] * (2 * rank)
    node.attributes["pads"] = [
        *pads[:rank],
        *(p + e for p, e in zip(pads[rank:], extra, strict=True)),
    ]
    return node.by_tvm()


def _write_pads(node: Node, sizes: list[int], kernel: list[int]) -> None:
    """Replace ``auto_pad`` of a convolution or pooling by ``pads``."""
    auto_pad = node.text("auto_pad", "NOTSET")
    node.attributes.pop("auto_pad", None)
    ones = [1] * len(sizes)
    strides, dilations = node.ints("strides", ones), node.ints("dilations", ones)
    if auto_pad == "VALID":
        node.attributes["pads"] = [0] * (2 * len(sizes))
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for axis, size in enumerate(sizes):
            window = (kernel[axis] - 1) * dilations[axis] + 1
            total = max((-(-size // strides[axis]) - 1) * strides[axis] + window - size, 0)
            first = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            begin.append(first)
            end.append(total - first)
        node.attributes["pads"] = [*begin, *end]
