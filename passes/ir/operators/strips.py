"""Strips of wide images: ``(batch, channels, height, width)`` as images of a larger batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.layouts import dtype_named
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, dtype_of, tensor_type
from tvm_sparse.passes.ir.shapes import known_extents, known_size, lowered
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.strips import Strips, strip_sizes

PANEL_RANK = 3
"""The rank of panels; images have another one."""


def to_strips(x: relax.Expr, strips: Strips, beside: float = 0.0) -> relax.Call:
    """Cut images into strips, which are images ``(batch * strips, channels, height, span)``.

    Parameters
    ----------
    x : relax.Expr
        Images, ``(batch, channels, height, width)``.
    strips : Strips
        How their rows are cut.
    beside : float
        The value of pixels outside of the images.
    """
    attrs = {"strips": _fields(strips), "lanes": 0, "dtype": str(ACTIVATIONS), "beside": beside}
    return TO_STRIPS.call(x, **attrs)


def from_strips(x: relax.Expr, strips: Strips, batch: int, height: int) -> relax.Call:
    """Join strips to images.

    Parameters
    ----------
    x : relax.Expr
        Strips, ``(batch * strips, channels, height, pixels)``, or their panels.
    strips : Strips
        How the rows were cut.
    batch, height : int
        Number and rows of the images.
    """
    attrs = {"strips": _fields(strips), "batch": lowered(batch), "height": lowered(height)}
    return FROM_STRIPS.call(x, **attrs)


def strip_panels(cut: relax.Call, source: relax.Expr, lanes: int, dtype: DType) -> relax.Call:
    """Return the panels of strips.

    Strips that were joined only to be cut in other places are copied once.

    Parameters
    ----------
    cut : relax.Call
        Images that are strips, from `to_strips`.
    source : relax.Expr
        What computes the images that are cut.
    lanes : int
        Lanes of the panels.
    dtype : DType
        Type of the panels.
    """
    attrs = {**cut.attrs, "lanes": lanes, "dtype": str(dtype)}
    if not joins_panels(source) or dtype_of(source.args[0]) != dtype:
        return TO_STRIPS.call(cut.args[0], **attrs)
    places = {name: source.attrs[name] for name in ("batch", "height")}
    return RECUT_STRIPS.call(source.args[0], **attrs, **places, before=source.attrs["strips"])


def joins_panels(value: relax.Expr) -> bool:
    """Whether an expression joins panels of strips, not strips that are images."""
    return is_call_to(value, FROM_STRIPS.name) and len(known_extents(value.args[0])) == PANEL_RANK


def strips_of(call: relax.Call, name: str = "strips") -> Strips:
    """Return how the rows of a call's images are cut."""
    return Strips(**{name: known_size(value) for name, value in call.attrs[name].items()})


def images_joined(call: relax.Call) -> tuple[int, int]:
    """Return number and rows of the images that a call makes of strips."""
    return known_size(call.attrs["batch"]), known_size(call.attrs["height"])


def _fields(strips: Strips) -> dict[str, Any]:
    return {name: lowered(value) for name, value in dataclasses.asdict(strips).items()}


def _infer_to_strips(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    batch, channels, height, _ = known_extents(call.args[0])
    strips, lanes = strips_of(call), int(call.attrs["lanes"])
    if lanes:
        rows = batch * strips.count * height
        return tensor_type(rows, channels, lanes, dtype=dtype_named(call))
    return tensor_type(batch * strips.count, channels, height, strips.span)


def _infer_from_strips(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    channels = known_extents(call.args[0])[1]
    batch, height = images_joined(call)
    return tensor_type(batch, channels, height, strips_of(call).out_width)


def _infer_recut_strips(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    channels = known_extents(call.args[0])[1]
    batch, height = images_joined(call)
    rows = batch * strips_of(call).count * height
    return tensor_type(rows, channels, int(call.attrs["lanes"]), dtype=dtype_named(call))


def _to_strips(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    batch, channels, height, _ = known_extents(call.args[0])
    lanes, beside = int(call.attrs["lanes"]), float(call.attrs["beside"])
    images = batch, channels, height
    return schedules.to_strips(images, strips_of(call), lanes, cpu, dtype_named(call), beside)


def _from_strips(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    _, channels, lanes = known_extents(call.args[0])
    batch, height = images_joined(call)
    images = batch, channels, height
    return schedules.from_strips(images, strips_of(call), lanes, cpu, dtype_of(call.args[0]))


def _recut_strips(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    _, channels, before = known_extents(call.args[0])
    batch, height = images_joined(call)
    images, lanes = (batch, channels, height), (before, int(call.attrs["lanes"]))
    cuts, beside = (strips_of(call, "before"), strips_of(call)), float(call.attrs["beside"])
    return schedules.RecutStrips(images, cuts, lanes, cpu, dtype_named(call), beside)


def _strips_recut(call: relax.Call) -> int:
    batch, _ = images_joined(call)
    return batch * strips_of(call).count


def _sizes_cut(call: relax.Call) -> Sequence[int]:
    batch, _, height, _ = known_extents(call.args[0])
    return strip_sizes(batch, height, strips_of(call))


def _sizes_joined(call: relax.Call) -> Sequence[int]:
    return strip_sizes(*images_joined(call), strips_of(call))


def _kernel_of_recut_strips(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.kernel(_recut_strips(call, 0, cpu))  # of words, too, which no region holds


def _sizes_recut(call: relax.Call) -> Sequence[int]:
    (batch, height), before = images_joined(call), strips_of(call, "before")
    ends = (batch * cut.count for cut in (strips_of(call), before))
    made, read = ((images, height) for images in ends)
    return *made, *read, *strip_sizes(batch, height, before, strips_of(call))


TO_STRIPS = Operator(
    PREFIX + "to_strips",
    ("x",),
    infer=_infer_to_strips,
    kernel=_to_strips,
    sizes=_sizes_cut,
    takes_sizes=True,
)
FROM_STRIPS = Operator(
    PREFIX + "from_strips",
    ("x",),
    infer=_infer_from_strips,
    kernel=_from_strips,
    sizes=_sizes_joined,
    takes_sizes=True,
)
RECUT_STRIPS = Operator(
    PREFIX + "recut_strips",
    ("x",),
    infer=_infer_recut_strips,
    stage=_recut_strips,
    kernel=_kernel_of_recut_strips,
    sizes=_sizes_recut,
    images=_strips_recut,
    takes_sizes=True,
)
