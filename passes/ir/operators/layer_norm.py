"""Normalization of token sequences in panels over their channels."""

from __future__ import annotations

from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.layouts import panels_of
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, infer_same
from tvm_sparse.schedules.stage import Stage


def layer_norm(x: relax.Expr, gamma: relax.Expr, beta: relax.Expr, epsilon: float) -> relax.Call:
    """Normalize panels over their channels; `gamma` and `beta` are ``(channels,)``."""
    return LAYER_NORM.call(x, gamma, beta, epsilon=epsilon)


def _layer_norm(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    x = panels_of(LAYER_NORM.operand(call, "x"), images)
    return schedules.LayerNorm(x, float(call.attrs["epsilon"]), cpu)


LAYER_NORM = Operator(
    PREFIX + "layer_norm",
    ("x", "gamma", "beta"),
    infer=infer_same,
    stage=_layer_norm,
    takes_sizes=True,
)
