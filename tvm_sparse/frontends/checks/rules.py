"""What the ONNX standard asks of a node beyond what ONNX's inference checks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvm_sparse.frontends.checks.node import CheckedNode

_WIDEST = 2**31 - 1
"""The largest number that tools keep of an attribute: many of them read 32 bits of the 64."""

_OF_ANY_SIZE = frozenset({"Constant", "ConstantOfShape", "Shape", "Slice"})
"""Operators whose attributes are values, or ends, and may be of any size."""


def check_rules(node: CheckedNode) -> None:
    """Check the attributes and shapes of a node.

    Raises
    ------
    ValueError
        If they break a rule; the message says which.
    """
    if node.op_type not in _OF_ANY_SIZE:
        for name, value in node.attributes.items():
            if np.abs(np.array(value, "float64")).max(initial=0) > _WIDEST:
                raise ValueError(f"its attribute {name!r} is {value}, which is no size or axis")
    for name in ("kernel_shape", "strides", "dilations"):
        if min(node.attributes.get(name, ()), default=1) < 1:
            raise ValueError(f"its attribute {name!r} is {node.attributes[name]}, below 1")
    rule = _RULES.get(node.op_type)
    if rule is not None:
        rule(node)


def _convolution(node: CheckedNode, weight: int = 1) -> None:
    x, w = node.shape(0), node.shape(weight)
    if x is None or w is None:
        return
    kernel, group = node.attributes.get("kernel_shape"), node.attributes.get("group", 1)
    if len(x) != len(w) or len(x) < 3:
        raise ValueError(f"its input has {len(x)} axes and its weights have {len(w)}")
    if kernel is not None and list(kernel) != w[2:]:
        raise ValueError(f"its attribute 'kernel_shape' is {kernel} and its weights are {w}")
    transposed = node.op_type == "ConvTranspose"
    channels = w[0] if transposed else w[1] * group
    if group < 1 or x[1] != channels or (x[1] if transposed else w[0]) % group:
        raise ValueError(f"its input {x}, its weights {w} and {group} groups do not fit")
    bias = node.shape(2) if node.op_type in ("Conv", "ConvTranspose") else None
    if bias is not None and bias != [w[1] * group if transposed else w[0]]:
        raise ValueError(f"its bias is {bias} and its weights are {w}")


def _split(node: CheckedNode) -> None:
    parts = node.attributes.get("num_outputs")
    if parts is not None and parts != len(node.outputs):
        raise ValueError(f"its attribute 'num_outputs' is {parts}, and it has {len(node.outputs)}")
    constant = node.constant(1)
    sizes = node.attributes.get("split") if constant is None else constant.tolist()
    if isinstance(sizes, list) and len(sizes) != len(node.outputs):
        raise ValueError(f"it has {len(sizes)} sizes of parts, and {len(node.outputs)} outputs")


def _elements(node: CheckedNode) -> None:
    data, indices, updates = node.shape(0), node.shape(1), node.shape(2)
    if data is None or indices is None:
        return
    axis = node.attributes.get("axis", 0)
    if len(data) != len(indices) or not -len(data) <= axis < len(data):
        raise ValueError(f"its data {data}, its indices {indices} and axis {axis} do not fit")
    axis %= len(data)
    if any(n > m for i, (n, m) in enumerate(zip(indices, data, strict=True)) if i != axis):
        raise ValueError(f"its indices {indices} are larger than its data {data}")
    if updates is not None and updates != indices:
        raise ValueError(f"its indices {indices} and its updates {updates} differ in shape")


def _scatter_nd(node: CheckedNode) -> None:
    data, indices, updates = node.shape(0), node.shape(1), node.shape(2)
    if data is None or updates is None or not indices:
        return
    axes = indices[-1]
    if axes > len(data) or updates != indices[:-1] + data[axes:]:
        raise ValueError(f"its data {data}, indices {indices} and updates {updates} do not fit")


def _instance_normalization(node: CheckedNode) -> None:
    x = node.shape(0)
    for given in (node.shape(1), node.shape(2)):
        if x is not None and given is not None and given != x[1:2]:
            raise ValueError(f"its input is {x} and its scale or bias is {given}")


def _layer_normalization(node: CheckedNode) -> None:
    x = node.shape(0)
    for given in (node.shape(1), node.shape(2)):
        if x is not None and given is not None:
            _broadcast(given, x[node.attributes.get("axis", -1) :])


def _slope(node: CheckedNode) -> None:
    x, slope = node.shape(0), node.shape(1)
    if x is not None and slope is not None:
        _broadcast(slope, x)


def _broadcast(small: list[int], large: list[int]) -> None:
    tail = large[len(large) - len(small) :]
    if len(small) > len(large) or any(n not in (1, m) for n, m in zip(small, tail, strict=True)):
        raise ValueError(f"a tensor of shape {small} does not broadcast to {large}")


def _range(node: CheckedNode) -> None:
    values = [node.constant(position) for position in range(3)]
    if not all(value is not None and value.size == 1 for value in values):
        return
    numbers = [value.item() for value in values if value is not None]
    if not numbers[2] or not np.isfinite(numbers).all():
        raise ValueError(f"its start, limit and delta are {numbers}, which are no range")


def _axis_of_input(position: int) -> Callable[[CheckedNode], None]:
    def rule(node: CheckedNode) -> None:
        x, axis = node.shape(0), node.constant(position)
        if x is None or axis is None:
            return
        if axis.size and not (-len(x) <= axis.min() and axis.max() < len(x)):
            raise ValueError(f"its axis {axis.tolist()} is not one of the {len(x)} of its input")

    return rule


_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _recurrent(node: CheckedNode) -> None:
    x, w, r, b = (node.shape(i) for i in range(4))
    hidden = node.attributes.get("hidden_size")
    if x is None or w is None or r is None or len(x) != 3 or len(w) != 3 or len(r) != 3:
        return
    gates, hidden = _GATES[node.op_type], hidden if hidden is not None else r[2]
    wanted = [w[0], gates * hidden, x[2]], [w[0], gates * hidden, hidden]
    if (w, r) != wanted or (b is not None and b != [w[0], 2 * gates * hidden]):
        raise ValueError(f"its input {x}, weights {w} and {r}, and bias {b} do not fit")


_RULES: dict[str, Callable[[CheckedNode], None]] = {
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _convolution,
    "QLinearConv": lambda node: _convolution(node, 3),
    "CumSum": _axis_of_input(1),
    "GRU": _recurrent,
    "GatherElements": _elements,
    "InstanceNormalization": _instance_normalization,
    "LSTM": _recurrent,
    "LayerNormalization": _layer_normalization,
    "PRelu": _slope,
    "RNN": _recurrent,
    "Range": _range,
    "Scatter": _elements,
    "ScatterElements": _elements,
    "ScatterND": _scatter_nd,
    "Split": _split,
}
