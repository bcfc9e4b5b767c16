"""Strips of wide images: ``(batch, channels, height, width)`` as images of a larger batch."""

from __future__ import annotations

import dataclasses

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.passes.ir.operators.layouts import dtype_named
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, dtype_of, tensor_type
from tvm_sparse.passes.ir.shapes import known_extents, known_size, lowered
from tvm_sparse.sizes.strips import Strips


def to_strips(
    x: relax.Expr, strips: Strips, lanes: int = 0, dtype: DType = ACTIVATIONS
) -> relax.Call:
    """Cut images into strips.

    Parameters
    ----------
    x : relax.Expr
        Images, ``(batch, channels, height, width)``.
    strips : Strips
        How their rows are cut.
    lanes : int
        Lanes of the panels of strips that are the result; with 0, they are images ``(batch *
        strips, channels, height, span)``.
    dtype : DType
        Type of the panels; images are float32.
    """
    fields = dataclasses.asdict(strips)
    return TO_STRIPS.call(x, strips=fields, lanes=lanes, dtype=str(dtype))


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
    fields = dataclasses.asdict(strips)
    return FROM_STRIPS.call(x, strips=fields, batch=lowered(batch), height=height)


def strips_of(call: relax.Call) -> Strips:
    """Return how the rows of a call's images are cut."""
    return Strips(**{name: int(value) for name, value in call.attrs["strips"].items()})


def _infer_to_strips(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    batch, channels, height, _ = known_extents(call.args[0])
    strips, lanes = strips_of(call), int(call.attrs["lanes"])
    if lanes:
        rows = batch * strips.count * height
        return tensor_type(rows, channels, lanes, dtype=dtype_named(call))
    return tensor_type(batch * strips.count, channels, height, strips.span)


def _infer_from_strips(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    channels = known_extents(call.args[0])[1]
    batch, height = known_size(call.attrs["batch"]), int(call.attrs["height"])
    return tensor_type(batch, channels, height, strips_of(call).out_width)


def _to_strips(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    batch, channels, height, _ = known_extents(call.args[0])
    lanes = int(call.attrs["lanes"])
    images = batch, channels, height
    return schedules.to_strips(images, strips_of(call), lanes, cpu, dtype_named(call))


def _from_strips(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    _, channels, lanes = known_extents(call.args[0])
    images = known_size(call.attrs["batch"]), channels, int(call.attrs["height"])
    return schedules.from_strips(images, strips_of(call), lanes, cpu, dtype_of(call.args[0]))


TO_STRIPS = Operator(
    PREFIX + "to_strips",
    ("x",),
    infer=_infer_to_strips,
    kernel=_to_strips,
    sizes=lambda call: known_extents(call.args[0])[:1],
    takes_sizes=True,
)
FROM_STRIPS = Operator(
    PREFIX + "from_strips",
    ("x",),
    infer=_infer_from_strips,
    kernel=_from_strips,
    sizes=lambda call: [known_size(call.attrs["batch"])],
    takes_sizes=True,
)
