"""Quantized layers on panels: the products are integers, summed up exactly, see `int8_layer`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import Quantization, RoundedBefore
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.conv2d import conv_of, infer_conv2d, on_images
from tvm_sparse.passes.ir.operators.epilogue import epilogue_of
from tvm_sparse.passes.ir.operators.layouts import panels_of
from tvm_sparse.passes.ir.operators.linear import SPARSE_OPERANDS, sparse_density
from tvm_sparse.passes.ir.operators.operator import (
    EPILOGUE_OPERANDS,
    PREFIX,
    Operator,
    dtype_of,
    of_any_batch,
    tensor_type,
)
from tvm_sparse.passes.ir.shapes import known_extents
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.int8 import INT8_CONV2D_FAMILIES, INT8_LINEAR_FAMILIES


def int8_linear(
    family: Family[Any, Any],
    x: relax.Expr,
    weights: Sequence[relax.Expr],
    channels: int,
    steps: Quantization | RoundedBefore,
    tiling: Mapping[str, Any],
    *,
    is_shifted: bool = False,
) -> relax.Call:
    """Multiply panels by a packed weight of integers.

    Parameters
    ----------
    family : Family
        The family of the kernel.
    x : relax.Expr
        Panels, ``[rows, in_channels, lanes]``, float32 or float16, not rounded yet; or of words.
    weights : sequence of relax.Expr
        The packed weight, or the four arrays of one without its zeros; the scale of the sums of
        each output channel, float32; the sums that stand for zeros, int32: see `packed_int8`. Then
        follow what the weights of each output channel were shifted by, int32, if they were, and,
        for panels of words, what they were rounded to, as from `dynamic_range`.
    channels : int
        Output channels.
    steps : Quantization or RoundedBefore
        The numbers that `x` is rounded to, or that it consists of words.
    tiling : mapping
        The fields of the tiling that the weight was packed with.
    is_shifted : bool
        Whether the weights were shifted, so that they fit in bytes.
    """
    fields = _fields_of(steps) | {"tiling": dict(tiling), _SHIFTS: is_shifted}
    return _LINEAR[family.name].call(x, *weights, channels=channels, **fields)


def int8_conv2d(
    family: Family[Any, Any],
    x: relax.Expr,
    weights: Sequence[relax.Expr],
    conv: Conv2d,
    steps: Quantization | RoundedBefore,
    tiling: Mapping[str, Any],
    *,
    is_shifted: bool = False,
) -> relax.Call:
    """Convolve panels of images with a packed weight of integers.

    Parameters are those of `int8_linear`; `weights` has the distances of the window's words
    behind the packed weight.
    """
    fields = _fields_of(steps) | {"tiling": dict(tiling), _SHIFTS: is_shifted}
    return _CONV2D[family.name].call(x, *weights, conv=of_any_batch(conv), **fields)


def _fields_of(steps: Quantization | RoundedBefore) -> dict[str, Any]:
    return {"steps": dataclasses.asdict(steps), _GIVEN: isinstance(steps, RoundedBefore)}


def _steps_of(call: relax.Call) -> Quantization | RoundedBefore:
    steps = call.attrs["steps"]
    if call.attrs[_GIVEN]:
        return RoundedBefore(int(steps["channels"]), DType(steps["dtype"]))
    numbers = (int(steps[name]) for name in ("zero_point", "low", "high", "tie"))
    return Quantization(float(steps["scale"]), *numbers)


def _tiling_of(call: relax.Call) -> tuple[Any, Any]:
    families = *INT8_LINEAR_FAMILIES, *INT8_CONV2D_FAMILIES
    family = next(f for f in families if is_call_to(call, PREFIX + f.name))
    return family, family.from_fields(call.attrs["tiling"])


def _infer_linear(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    rows, _, lanes = known_extents(call.args[0])
    steps = _steps_of(call)
    dtype = steps.dtype if isinstance(steps, RoundedBefore) else dtype_of(call.args[0])
    return tensor_type(rows, int(call.attrs["channels"]), lanes, dtype=dtype)


def _linear_stage(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    x, n = panels_of(call.args[0], images), int(call.attrs["channels"])
    family, tiling = _tiling_of(call)
    density = 1.0
    if family.is_sparse:
        words = n * (x.channels if call.attrs[_GIVEN] else -(-x.channels // family.per_word(cpu)))
        density = sparse_density(_LINEAR[family.name].operand(call, "values"), words)
    fields = _steps_of(call), epilogue_of(call), cpu, tiling, density
    return schedules.Int8Linear(x, n, *fields, is_shifted=bool(call.attrs[_SHIFTS]))


def _conv2d_stage(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    family, tiling = _tiling_of(call)
    conv, steps, images = conv_of(call), _steps_of(call), on_images(call)
    density = 1.0
    if family.is_sparse:
        words = conv.out_channels * family.window(conv, cpu).words
        density = sparse_density(_CONV2D[family.name].operand(call, "values"), words)
    options = {**images, "is_shifted": bool(call.attrs[_SHIFTS])}
    return schedules.Int8Conv2d(conv, steps, epilogue_of(call), cpu, tiling, density, **options)


def _linear(family: Family[Any, Any]) -> Operator:
    return Operator(
        PREFIX + family.name,
        (*_weight_operands(family), "scales", "corrections"),
        (_SHIFTS, _GIVEN, *EPILOGUE_OPERANDS),
        infer=_infer_linear,
        stage=_linear_stage,
        takes_sizes=True,
        with_epilogue=True,
    )


def _conv2d(family: Family[Any, Any]) -> Operator:
    return Operator(
        PREFIX + family.name,
        (*_weight_operands(family), "distances", "scales", "corrections"),
        (_SHIFTS, _GIVEN, *EPILOGUE_OPERANDS),
        infer=infer_conv2d,
        stage=_conv2d_stage,
        images=lambda call: conv_of(call).batch,
        takes_sizes=True,
        with_epilogue=True,
    )


def _weight_operands(family: Family[Any, Any]) -> tuple[str, ...]:
    return SPARSE_OPERANDS if family.is_sparse else ("x", "weight")


_GIVEN = "run_time_steps"
"""The optional operand of a layer whose panels are words."""
_SHIFTS = "shifts"
"""The optional operand of a layer of bytes whose weights were shifted."""

_LINEAR = {family.name: _linear(family) for family in INT8_LINEAR_FAMILIES}
_CONV2D = {family.name: _conv2d(family) for family in INT8_CONV2D_FAMILIES}
INT8_OPERATORS = (*_LINEAR.values(), *_CONV2D.values())
"""The records of the quantized layers, one for each family of kernels."""
