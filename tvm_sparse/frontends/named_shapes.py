"""Which dimensions of a model's inputs stay open, and by which names an inference chooses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from tvm_sparse.errors import InputError
from tvm_sparse.frontends.input_shapes import is_symbol, split_shapes

Shape = tuple[int | str, ...]

WIDTH_AXIS = 3
"""The axis of the width of images ``(batch, channels, height, width)``."""

OF_IMAGES = frozenset(
    (
        *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize", "Upsample"),
        *("QLinearConv", "ConvInteger"),
    )
)
"""Operators whose kernels take any batch, height and width, the latter but for those that
`_needs_width` finds, and need other sizes when they are compiled. A model with one keeps names of
other sizes only if the user says so."""

NEED_SIZES = frozenset(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "NonMaxSuppression", "LpPool"))
"""Operators whose kernels need all sizes when they are compiled. A model with one keeps its own
names only if the user says so."""


def named_shapes(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[Any]] | None
) -> dict[str, Shape] | None:
    """Return the shape of every input, in which names stand for sizes that an inference chooses.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.
    shapes : mapping of str to sequence of int or str, optional
        Shapes by the name of the input, in which strings name dimensions; or sizes by the name of
        the dimension.

    Returns
    -------
    dict of str to shape, or None
        None if no dimension stays open.

    Raises
    ------
    InputError
        If `shapes` names a dimension that the model fixes, or an input that it does not have.
    """
    inputs = {value.name: value for value in model.graph.input}
    own = {name: _declared(value) for name, value in inputs.items()}
    symbols = {size for shape in own.values() for size in shape or () if isinstance(size, str)}
    given, sizes = split_shapes(shapes, inputs, sorted(symbols))
    renamed: dict[str, int | str] = {**sizes}
    for name, shape in given.items():
        _check(name, shape, own[name])
        renamed |= {
            declared: size
            for declared, size in zip(own[name] or shape, shape, strict=True)
            if isinstance(declared, str)
        }
    has_names = any(isinstance(size, str) for shape in given.values() for size in shape)
    operators = {node.op_type for node in model.graph.node}
    if not has_names and operators & NEED_SIZES:
        return None
    named: dict[str, Shape] = {}
    for name in inputs:
        known = given.get(name) or own[name]
        if known is None or None in known:
            return None  # its shape is not known, which `bind_shapes` says
        named[name] = tuple(renamed.get(s, s) if isinstance(s, str) else s for s in known)
    is_open = any(isinstance(size, str) for shape in named.values() for size in shape)
    values = computed_from_values(model)
    blends = any(_needs_width(n) and n.input[0] in values for n in model.graph.node)
    first_known = WIDTH_AXIS + (not blends)
    has_other = any(
        isinstance(size, str) for shape in named.values() for size in _others(shape, first_known)
    )
    if not has_names and has_other and operators & OF_IMAGES:
        return None
    return named if is_open else None


def computed_from_values(model: onnx.ModelProto) -> set[str]:
    """Return the names of the values that depend on more of the inputs than their sizes."""
    found = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _needs_width(node: onnx.NodeProto) -> bool:
    """Whether an operator of images needs the width when it is compiled: it blends pixels."""
    modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
    return node.op_type in ("Resize", "Upsample") and bool(modes) and modes[0] != b"nearest"


def _others(shape: Shape, first_known: int) -> Shape:
    """Return the dimensions of an input but the batch, and those of an image before an axis."""
    return (shape[1], *shape[first_known:]) if len(shape) == 4 else shape[1:]


def _declared(value: onnx.ValueInfoProto) -> tuple[Any, ...] | None:
    """Return the shape in the file: numbers, names, and None for what is neither."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    return tuple(
        dim.dim_value
        if dim.HasField("dim_value")
        else dim.dim_param
        if is_symbol(dim.dim_param)
        else None
        for dim in kind.shape.dim
    )


def _check(name: str, shape: Sequence[Any], declared: Sequence[Any] | None) -> None:
    if declared is not None and len(shape) != len(declared):
        raise InputError(
            f"input {name!r}: shape {tuple(shape)} has {len(shape)} dimensions, and the model's "
            f"has {len(declared)}"
        )
    for axis, size in enumerate(shape):
        fixed = declared[axis] if declared is not None else None
        if isinstance(size, str) and isinstance(fixed, int):
            raise InputError(
                f"input {name!r}: dimension {axis} is {fixed} in the model, so that it cannot be "
                f"{size!r}"
            )
        if isinstance(size, str) and not size.isidentifier():
            raise InputError(f"input {name!r}: {size!r} is no name of a dimension")
