"""FuseEpilogue: f(linear(p)) => linear(p) with f in its epilogue

f adds a bias per channel, adds a residual, or applies an activation; linear is dense or sparse. The
epilogue runs while a result is still in registers, ``activation(y + bias + residual)``, so f is
taken in only in that order, and only if nobody else reads the linear operator's own result.

Runs after `MoveToPanels`.
"""

from __future__ import annotations

from collections import Counter

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.passes import operators
from tvm_sparse.passes.dataflow import count_uses
from tvm_sparse.passes.operators import is_call_to, static_shape

ACTIVATIONS = {
    "relax.nn.relu": "relu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.silu": "silu",
    "relax.sigmoid": "sigmoid",
    "relax.tanh": "tanh",
    operators.HARDSWISH: "hardswish",
}


@tvm.transform.module_pass(opt_level=0, name="FuseEpilogue")
class FuseEpilogue:
    """Take bias, residual and activation into the linear operators."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its epilogues fused."""
        rewriter = _Fuser(mod)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewriter.uses = count_uses(func)
                rewriter.builder_.update_func(gvar, rewriter.visit_expr(func))
        return relax.transform.DeadCodeElimination()(rewriter.builder_.get())


@mutator
class _Fuser(PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.uses: Counter[relax.Var] = Counter()

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        only_use = [self.uses[a] == 1 for a in call.args]
        call = super().visit_call_(call)
        activation = activation_of(call)
        if activation is not None:
            linear = self._fusible(call.args[0], only_use[0])
            if linear is not None:
                return operators.with_epilogue(linear, activation=activation)
        if is_call_to(call, "relax.add"):
            for this, other in ((0, 1), (1, 0)):
                linear = self._fusible(call.args[this], only_use[this])
                if linear is not None:
                    fused = _add(linear, call.args[this], call.args[other])
                    if fused is not None:
                        return fused
        return call

    def _fusible(self, value: relax.Expr, only_use: bool) -> relax.Call | None:
        """Return the linear call that computes `value`, if its epilogue can still grow."""
        if not (only_use and isinstance(value, relax.Var)):
            return None
        call = self.lookup_binding(value)
        if not is_call_to(call, *operators.WITH_EPILOGUE):
            return None
        return None if call.attrs["activation"] else call


def activation_of(call: relax.Call) -> str | None:
    """Return what the epilogue calls the activation that `call` is, or None."""
    if is_call_to(call, "relax.nn.leakyrelu"):
        return f"leaky_relu({call.attrs['alpha']})"
    if is_call_to(call, "relax.clip"):
        return "relu6" if [bound.value for bound in call.args[1:]] == [0, 6] else None
    return ACTIVATIONS[call.op.name] if is_call_to(call, *ACTIVATIONS) else None


def _add(linear: relax.Call, result: relax.Expr, other: relax.Expr) -> relax.Call | None:
    """Return `linear` with `other` added as its bias or its residual, or None."""
    rows, channels, lanes = static_shape(result) or (0, 0, 0)
    shape = static_shape(other)
    is_bias = shape == (channels, 1) and isinstance(other, tvm.ir.GenericConst)
    if is_bias and not linear.attrs["bias"]:
        bias = relax.const(other.value.numpy().reshape(channels))
        return operators.with_epilogue(linear, bias=bias)
    if shape == (rows, channels, lanes) and not linear.attrs["residual"]:
        return operators.with_epilogue(linear, residual=other)
    return None
