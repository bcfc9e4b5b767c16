"""The numbers that an inference rounds a tensor to: the scale and the zero point of its range."""

from __future__ import annotations

from typing import Any

from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, dtype_of, tensor_type
from tvm_sparse.passes.ir.shapes import known_extents, known_size, lowered
from tvm_sparse.schedules.operators.dynamic_range import Valid


def dynamic_range(x: relax.Expr, valid: Valid | None = None) -> relax.Call:
    """Return the steps ``(2,)``, float32: the scale and the zero point, from 0 to 255.

    Parameters
    ----------
    x : relax.Expr
        A tensor of any rank from 1 on, or panels.
    valid : Valid, optional
        Which lanes of panels hold values; None for a tensor.
    """
    sizes: tuple[Any, ...] = () if valid is None else (valid.period, valid.extent)
    return DYNAMIC_RANGE.call(x, valid=[lowered(n) for n in sizes])


def _valid_of(call: relax.Call) -> Valid | None:
    sizes = [known_size(n) for n in call.attrs["valid"]]
    return Valid(*sizes) if sizes else None


def _kernel(call: relax.Call, cpu: CpuProfile) -> Any:
    x = DYNAMIC_RANGE.operand(call, "x")
    return schedules.dynamic_range(known_extents(x), _valid_of(call), cpu, dtype_of(x))


def _sizes(call: relax.Call) -> tuple[int, ...]:
    valid, shape = _valid_of(call), known_extents(DYNAMIC_RANGE.operand(call, "x"))
    return (*shape, *((valid.period, valid.extent) if valid else ()))


DYNAMIC_RANGE = Operator(
    PREFIX + "dynamic_range",
    ("x",),
    infer=lambda _call, _builder: tensor_type(2),
    kernel=_kernel,
    sizes=_sizes,
    takes_sizes=True,
)
