"""Quantized layers on panels: the products are integers, summed up exactly, see `int8_layer`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.conv2d import conv_of, infer_conv2d, on_images
from tvm_sparse.passes.ir.operators.epilogue import epilogue_of
from tvm_sparse.passes.ir.operators.layouts import panels_of
from tvm_sparse.passes.ir.operators.linear import infer_linear
from tvm_sparse.passes.ir.operators.operator import (
    EPILOGUE_OPERANDS,
    PREFIX,
    Operator,
    of_any_batch,
)
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.int8_conv2d import AMX_INT8_CONV2D_FAMILY, INT8_CONV2D_FAMILY
from tvm_sparse.tilings.int8_linear import AMX_INT8_LINEAR_FAMILY, INT8_LINEAR_FAMILY


def int8_linear(
    family: Family[Any, Any],
    x: relax.Expr,
    weights: Sequence[relax.Expr],
    channels: int,
    steps: Quantization,
    tiling: Mapping[str, Any],
) -> relax.Call:
    """Multiply panels by a packed weight of integers.

    Parameters
    ----------
    family : Family
        The family of the kernel.
    x : relax.Expr
        Panels, ``[rows, in_channels, lanes]``, float32 or float16, not rounded yet.
    weights : sequence of relax.Expr
        The packed weight; the scale of the sums of each output channel, float32; the sums that
        stand for zeros, int32: see `packed_int8`.
    channels : int
        Output channels.
    steps : Quantization
        The numbers that `x` is rounded to.
    tiling : mapping
        The fields of the tiling that the weight was packed with.
    """
    fields = {"steps": dataclasses.asdict(steps), "tiling": dict(tiling)}
    return _LINEAR[family.name].call(x, *weights, channels=channels, **fields)


def int8_conv2d(
    family: Family[Any, Any],
    x: relax.Expr,
    weights: Sequence[relax.Expr],
    conv: Conv2d,
    steps: Quantization,
    tiling: Mapping[str, Any],
) -> relax.Call:
    """Convolve panels of images with a packed weight of integers.

    Parameters are those of `int8_linear`; `weights` has the offsets of the window's words behind
    the packed weight.
    """
    fields = {"steps": dataclasses.asdict(steps), "tiling": dict(tiling)}
    return _CONV2D[family.name].call(x, *weights, conv=of_any_batch(conv), **fields)


def _steps_of(call: relax.Call) -> Quantization:
    steps = call.attrs["steps"]
    numbers = (int(steps[name]) for name in ("zero_point", "low", "high"))
    return Quantization(float(steps["scale"]), *numbers)


def _tiling_of(call: relax.Call) -> tuple[Family[Any, Any], Any]:
    family = next(f for f in _FAMILIES if is_call_to(call, PREFIX + f.name))
    return family, family.from_fields(call.attrs["tiling"])


def _linear_stage(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    x, n = panels_of(call.args[0], images), int(call.attrs["channels"])
    _, tiling = _tiling_of(call)
    return schedules.Int8Linear(x, n, _steps_of(call), epilogue_of(call), cpu, tiling)


def _conv2d_stage(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    _, tiling = _tiling_of(call)
    conv, steps, images = conv_of(call), _steps_of(call), on_images(call)
    return schedules.Int8Conv2d(conv, steps, epilogue_of(call), cpu, tiling, **images)


def _linear(family: Family[Any, Any]) -> Operator:
    return Operator(
        PREFIX + family.name,
        ("x", "weight", "scales", "corrections"),
        EPILOGUE_OPERANDS,
        infer=infer_linear,
        stage=_linear_stage,
        with_epilogue=True,
    )


def _conv2d(family: Family[Any, Any]) -> Operator:
    return Operator(
        PREFIX + family.name,
        ("x", "weight", "offsets", "scales", "corrections"),
        EPILOGUE_OPERANDS,
        infer=infer_conv2d,
        stage=_conv2d_stage,
        images=lambda call: conv_of(call).batch,
        with_epilogue=True,
    )


_FAMILIES: tuple[Family[Any, Any], ...] = (
    INT8_LINEAR_FAMILY,
    AMX_INT8_LINEAR_FAMILY,
    INT8_CONV2D_FAMILY,
    AMX_INT8_CONV2D_FAMILY,
)
_LINEAR = {family.name: _linear(family) for family in _FAMILIES[:2]}
_CONV2D = {family.name: _conv2d(family) for family in _FAMILIES[2:]}
INT8_OPERATORS = (*_LINEAR.values(), *_CONV2D.values())
"""The records of the quantized layers, one for each family of kernels."""
