"""VectorizeMath: exp(x), erf(x), ... => arithmetic

The pass replaces elementary functions in TensorIR by the expressions of
`tvm_sparse.schedules.emit.elementwise`, which LLVM keeps in vector code. It runs after scheduling,
because the expressions bind variables, which a schedule that inlines or unrolls would bind twice.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import Expr

from tvm_sparse.schedules.emit import half_math, vector_math
from tvm_sparse.schedules.emit.expressions import Lets

FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    f"tirx.{name}": getattr(vector_math, name)
    for name in ("exp", "log", "log1p", "erf", "tanh", "sigmoid")
}
"""Expressions of the functions that LLVM has no vector code for, by their names in TensorIR."""

HALF_FUNCTIONS: dict[str, Callable[[Expr], Expr]] = {
    **{name: half_math.wide(function) for name, function in FUNCTIONS.items()},
    **{f"tirx.{name}": getattr(half_math, name) for name in ("exp", "tanh", "sigmoid")},
}
"""The same functions of float16 values."""

VECTORIZABLE = ("tirx.nearbyint",)
"""Functions that LLVM has vector code for, which TVM does not know. A loop with one would be
computed one number after another, or gather and scatter them."""

for _name in VECTORIZABLE:
    tvm.ir.register_op_attr(_name, "TVectorizable", True)


@tvm.transform.module_pass(opt_level=0, name="VectorizeMath")
class VectorizeMath:
    """Replace float32 and float16 calls of elementary functions, and all hyperbolic ones."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with the calls in all its PrimFuncs replaced."""
        functions = {
            gvar: vectorize_math(func) if isinstance(func, tirx.PrimFunc) else func
            for gvar, func in mod.functions_items()
        }
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


_EXPRESSIONS = {"float32": FUNCTIONS, "float16": HALF_FUNCTIONS}


def vectorize_math(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return `func` with its calls of elementary functions replaced."""

    def replace(call: tvm.ir.Call) -> Expr:
        name: str = getattr(call.op, "name", "")
        if name in HYPERBOLIC:
            return HYPERBOLIC[name](call.args[0])
        expressions = (
            _EXPRESSIONS.get(str(call.ty.dtype).split("x")[0]) if name in FUNCTIONS else None
        )
        if expressions is None:
            return call
        argument = tvm_ffi.structural_map(call.args[0], (tirx.Cast, _selected))
        return expressions[name](argument)

    return func.with_body(tvm_ffi.structural_map(func.body, (tvm.ir.Call, replace)))


def _cosh(x: Expr) -> Expr:
    """Return ``(exp(x) + exp(-x)) / 2``."""
    let = Lets()
    large, small, _ = _halves(let, let(x))
    return let.around(large + small)


def _sinh(x: Expr) -> Expr:
    """Return ``(exp(x) - exp(-x)) / 2``, and the sum of its series where that cancels digits."""
    let = Lets()
    x = let(x)
    large, small, magnitude = _halves(let, x)
    difference = let(large - small)
    square = let(x * x)
    factor = tirx.const(1, x.ty.dtype)
    for k in reversed(range(1, _TERMS)):
        factor = factor * square / tirx.const(2 * k * (2 * k + 1), x.ty.dtype)
        factor = factor + tirx.const(1, x.ty.dtype)
    zero, one = (tirx.const(number, x.ty.dtype) for number in (0, 1))
    signed = tirx.Select(x < zero, zero - difference, difference)
    return let.around(tirx.Select(magnitude < one, x * factor, signed))


_TERMS = 9
"""Terms of the series of sinh(x) / x; the next one is below 2**-53 on abs(x) <= 1."""


def _halves(let: Lets, x: Expr) -> tuple[Expr, Expr, Expr]:
    """Return ``exp(a) / 2``, ``exp(-a) / 2`` and ``a = abs(x)``.

    The exponential of half of `a` is finite where that of `a` is not, though its half is.
    """
    dtype = x.ty.dtype
    half, zero = tirx.const(0.5, dtype), tirx.const(0, dtype)
    magnitude = let(tirx.Select(x < zero, zero - x, x))
    exp = vector_math.exp if str(dtype).startswith("float32") else tirx.exp
    root = let(exp(magnitude * half))
    return let(root * half * root), let(half / root / root), magnitude


HYPERBOLIC: dict[str, Callable[[Expr], Expr]] = {"tirx.cosh": _cosh, "tirx.sinh": _sinh}
"""Expressions of the functions that TVM calls for scalars only; vectors of them do not compile."""


def _selected(cast: tirx.Cast) -> Expr:
    """Return a condition as a number by a selection: TVM's analysis fails for casts of vectors."""
    if str(cast.value.ty.dtype) != "bool":
        return cast
    one, zero = (tirx.const(number, cast.ty.dtype) for number in (1, 0))
    return tirx.Select(cast.value, one, zero)
