"""Quantized layers of a network that does not work on panels yet, and the rounding of tensors.

A quantized layer multiplies a tensor that is rounded to the integers of a `Quantization` by a
weight of integers, ``matmul(fake_quantize(x), values * scale)``, and likewise for a convolution.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm import relax

from tvm_sparse.formats.quantization import Quantization, along
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.elementwise import FAKE_QUANTIZE
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator

CONV_ATTRIBUTES = ("strides", "padding", "dilation", "groups")
"""The attributes of a convolution that say more than its layouts do."""


def fake_quantize(x: relax.Expr, steps: Quantization) -> relax.Call:
    """Return the nearest numbers that the integers of a quantization stand for."""
    return FAKE_QUANTIZE.call(x, **dataclasses.asdict(steps))


@dataclass(frozen=True)
class RunTimeSteps:
    """The numbers that an inference rounds a tensor to.

    Attributes
    ----------
    value : relax.Expr
        ``(2,)``, float32: the scale, and how far the zero point lies above the least integer.
    covers : bool
        Whether they reach from the least value of the tensor to the largest one.
    """

    value: relax.Expr
    covers: bool


Steps: TypeAlias = Quantization | RunTimeSteps
"""What a layer rounds its input to."""


def quantized_matmul(
    x: relax.Expr, values: relax.Expr, scale: relax.Expr, steps: Steps
) -> relax.Call:
    """Multiply a rounded tensor by a weight of integers.

    Parameters
    ----------
    x : relax.Expr
        ``(..., K)``, float32, not rounded yet.
    values : relax.Expr
        A constant ``(K, N)``, int8 or int16, in which 0 stands for zero.
    scale : relax.Expr
        A constant ``(N,)``, float32: the distance of two neighbouring weights.
    steps : Quantization or RunTimeSteps
        The numbers that `x` is rounded to.
    """
    operands, fields = _given(steps)
    return QUANTIZED_MATMUL.call(x, values, scale, *operands, **fields)


def quantized_conv2d(
    x: relax.Expr,
    values: relax.Expr,
    scale: relax.Expr,
    steps: Steps,
    attributes: dict[str, Any],
) -> relax.Call:
    """Convolve a rounded image with a weight ``(N, C, kh, kw)`` of integers.

    Parameters are those of `quantized_matmul`, and the `CONV_ATTRIBUTES`.
    """
    operands, fields = _given(steps)
    return QUANTIZED_CONV2D.call(x, values, scale, *operands, **fields, **attributes)


def _given(steps: Steps) -> tuple[list[relax.Expr], dict[str, Any]]:
    """Return the operands and the attributes that say what an input is rounded to."""
    if isinstance(steps, RunTimeSteps):
        return [steps.value], {"covers": steps.covers}
    return [], dataclasses.asdict(steps)


def run_time_steps_of(call: relax.Call) -> RunTimeSteps | None:
    """Return the numbers that a quantized layer rounds to if only an inference knows them."""
    if "covers" not in call.attrs:
        return None
    return RunTimeSteps(call.args[3], bool(call.attrs["covers"]))


def steps_of(call: relax.Call) -> Quantization:
    """Return the numbers that a call rounds its operand `x` to."""
    scale, *integers = (call.attrs[field.name] for field in dataclasses.fields(Quantization))
    return Quantization(float(scale), *(int(number) for number in integers))


def in_floats(call: relax.Call) -> relax.Call:
    """Return the call of a quantized layer as one of floats, without the rounding of `x`."""
    x, values, scale = call.args[:3]
    array, axis = values.value.numpy(), 1 if is_call_to(call, QUANTIZED_MATMUL.name) else 0
    weight = relax.const(array * along(scale.value.numpy(), axis, array.ndim))
    if axis == 1:
        result = relax.op.matmul(x, weight)
    else:
        strides, padding, dilation = (
            tuple(int(n) for n in call.attrs[name]) for name in CONV_ATTRIBUTES[:3]
        )
        result = relax.op.nn.conv2d(
            x, weight, strides, padding, dilation, groups=int(call.attrs["groups"])
        )
    return relax.BlockBuilder().normalize(result)


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    return in_floats(call).ty


QUANTIZED_MATMUL = Operator(
    PREFIX + "quantized_matmul", ("x", "values", "scale"), ("steps",), infer=_infer
)
QUANTIZED_CONV2D = Operator(
    PREFIX + "quantized_conv2d", ("x", "values", "scale"), ("steps",), infer=_infer
)
QUANTIZED = (QUANTIZED_MATMUL.name, QUANTIZED_CONV2D.name)
"""The names in Relax of the quantized layers."""
