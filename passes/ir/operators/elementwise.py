"""Elementwise operators, which work on tensors in any layout."""

from __future__ import annotations

from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.operator import HARDSWISH

ACTIVATIONS = {
    "relax.nn.relu": "relu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.silu": "silu",
    "relax.sigmoid": "sigmoid",
    "relax.tanh": "tanh",
    HARDSWISH: "hardswish",
}


def activation_of(call: relax.Call) -> str | None:
    """Return what the epilogue calls the activation that `call` is, or None."""
    if is_call_to(call, "relax.nn.leakyrelu"):
        return f"leaky_relu({call.attrs['alpha']})"
    if is_call_to(call, "relax.clip"):
        return "relu6" if [bound.value for bound in call.args[1:]] == [0, 6] else None
    return ACTIVATIONS[call.op.name] if is_call_to(call, *ACTIVATIONS) else None
