"""Operators that compute each row by itself: functions of each element, and copies of channels.

These are TVM's operators, except `hardswish`, `softplus` and `fake_quantize`, which Relax does not
have or computes less exactly. All of them work on
tensors in any layout; the records here say which calls are stages on panels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from tvm import relax, te, tirx

from tvm_sparse import schedules
from tvm_sparse.costs.elementwise import FUNCTIONS, parse
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.passes.ir.expressions import integers, is_call_to
from tvm_sparse.passes.ir.operators.layouts import panels_of
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, infer_same
from tvm_sparse.passes.ir.shapes import known_extents
from tvm_sparse.schedules.operators.elementwise import broadcasts
from tvm_sparse.schedules.stage import Stage

CHANNEL_AXES = (1, -2)
"""The two numbers of the axis of the channels of panels, from the front and from the back."""


def hardswish(x: relax.Expr) -> relax.Call:
    """Return ``x * clip(x / 6 + 1 / 2, 0, 1)``."""
    return HARDSWISH.call(x)


def softplus(x: relax.Expr) -> relax.Call:
    """Return ``log(1 + exp(x))``."""
    return SOFTPLUS.call(x)


def function_of(call: relax.Call) -> str | None:
    """Return the function of `tvm_sparse.costs.elementwise` that a call is, with its parameters."""
    if is_call_to(call, "relax.nn.leakyrelu"):
        return f"leaky_relu({call.attrs['alpha']})"
    if is_call_to(call, FAKE_QUANTIZE.name):
        numbers = _quantization(call).numbers
        return f"fake_quantize({', '.join(str(float(number)) for number in numbers)})"
    if is_call_to(call, "relax.clip"):
        _, *bounds = call.args
        low, high = (float(bound.value) for bound in bounds)
        return "relu6" if (low, high) == (0, 6) else f"clip({low}, {high})"
    return _NAMES[call.op.name] if is_call_to(call, *_NAMES) else None


def activation_of(call: relax.Call) -> str | None:
    """Return the function that a call is, if it can end an epilogue."""
    function = function_of(call)
    return function if function is not None and parse(function)[0].in_epilogue else None


def _elementwise(call: relax.Call, images: int, cpu: CpuProfile) -> Stage | None:
    function = function_of(call)
    result = panels_of(call, images)
    operands = ELEMENTWISE[call.op.name].operands_of(call).values()
    shapes = [known_extents(operand) for operand in operands]
    if function is None or not all(broadcasts(shape, result) for shape in shapes):
        return None  # the stage knows no other way to broadcast
    return schedules.Elementwise(function, result, shapes, cpu)


def _concat(call: relax.Call, images: int, cpu: CpuProfile) -> Stage | None:
    fields = CONCAT.operands_of(call).values()
    if int(call.attrs["axis"]) not in CHANNEL_AXES or not fields:
        return None  # Without fields, the operand is a variable that holds the whole tuple.
    return schedules.Concat([panels_of(field, images) for field in fields], cpu)


def _slice(call: relax.Call, images: int, cpu: CpuProfile) -> Stage | None:
    axes, begin, end, *strides = (integers(argument) for argument in call.args[1:])
    if axes is None or begin is None or end is None or len(axes) != 1:
        return None  # it cuts several axes, or where it cuts is not known yet
    if axes[0] not in CHANNEL_AXES or any(stride != [1] for stride in strides):
        return None
    source = panels_of(SLICE.operand(call, "x"), images)
    channels = range(source.channels)[begin[0] : end[0]]
    if not channels:
        return None
    return schedules.SliceChannels(source, channels.start, channels.stop, cpu)


def _legalize_hardswish(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def body(x: te.Tensor) -> te.Tensor:
        def value(*i: Any) -> Any:
            factor = x(*i) * tirx.const(1 / 6, x.dtype) + tirx.const(0.5, x.dtype)
            one, zero = tirx.const(1, x.dtype), tirx.const(0, x.dtype)
            return x(*i) * tirx.max(tirx.min(factor, one), zero)

        return te.compute(x.shape, value, name="hardswish")

    (x,) = call.args
    return builder.call_te(body, x, primfunc_name_hint="hardswish")


def _legalize_softplus(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def body(x: te.Tensor) -> te.Tensor:
        def value(*i: Any) -> Any:
            return tirx.max(x(*i), tirx.const(0, x.dtype)) + tirx.log1p(tirx.exp(-tirx.abs(x(*i))))

        return te.compute(x.shape, value, name="softplus")

    (x,) = call.args
    return builder.call_te(body, x, primfunc_name_hint="softplus")


def _quantization(call: relax.Call) -> Quantization:
    """Return the numbers that a call of `FAKE_QUANTIZE` rounds to."""
    scale, *integers = (call.attrs[field.name] for field in dataclasses.fields(Quantization))
    return Quantization(float(scale), *(int(number) for number in integers))


def _legalize_fake_quantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    steps = _quantization(call)

    def body(x: te.Tensor) -> te.Tensor:
        def value(*i: Any) -> Any:
            tie, zero = (float(n) for n in (steps.tie, steps.zero_point))
            moved = x(*i) / tirx.const(steps.scale, x.dtype) + tirx.const(tie, x.dtype)
            nearest = tirx.nearbyint(moved) - tirx.const(tie, x.dtype)
            least, most = (tirx.const(n - zero, x.dtype) for n in (steps.low, steps.high))
            return tirx.max(tirx.min(nearest, most), least) * tirx.const(steps.scale, x.dtype)

        return te.compute(x.shape, value, name="fake_quantize")

    (x,) = call.args
    return builder.call_te(body, x, primfunc_name_hint="fake_quantize")


HARDSWISH = Operator(
    PREFIX + "hardswish",
    infer=infer_same,
    stage=_elementwise,
    legalize=_legalize_hardswish,
    takes_sizes=True,
)
SOFTPLUS = Operator(
    PREFIX + "softplus",
    infer=infer_same,
    stage=_elementwise,
    legalize=_legalize_softplus,
    takes_sizes=True,
)
FAKE_QUANTIZE = Operator(
    PREFIX + "fake_quantize",
    infer=infer_same,
    stage=_elementwise,
    legalize=_legalize_fake_quantize,
    takes_sizes=True,
)
CONCAT = Operator("relax.concat", stage=_concat, takes_sizes=True)
SLICE = Operator("relax.strided_slice", ("x",), stage=_slice, takes_sizes=True)

_NAMES = {function.relax: function.name for function in FUNCTIONS.values()}
UNARY, BINARY = (
    tuple(dict.fromkeys(f.relax for f in FUNCTIONS.values() if f.operands == operands))
    for operands in (1, 2)
)
"""The names in Relax of the functions of one tensor, and of two."""
ELEMENTWISE = {
    HARDSWISH.name: HARDSWISH,
    SOFTPLUS.name: SOFTPLUS,
    FAKE_QUANTIZE.name: FAKE_QUANTIZE,
    **{
        name: Operator(name, stage=_elementwise, takes_sizes=True)
        for name in (*UNARY, *BINARY)
        if name not in (HARDSWISH.name, SOFTPLUS.name, FAKE_QUANTIZE.name)
    },
}
"""The records of the elementwise functions, by their names in Relax."""
