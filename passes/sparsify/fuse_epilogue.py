"""FuseEpilogue: f(linear(p)) => linear(p) with f in its epilogue

f adds a bias per channel, adds a residual, or applies an activation; linear is dense or sparse. The
epilogue ``activation(y + bias + residual)`` runs while y is still in registers. So f can only join
it in that order, and only if nothing else reads the result of the linear operator.

Runs after `MoveToPanels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.elementwise import activation_of
from tvm_sparse.passes.ir.rewriting import rewrite_with_sources
from tvm_sparse.passes.ir.shapes import extents_of


@tvm.transform.module_pass(opt_level=0, name="FuseEpilogue")
class FuseEpilogue:
    """Take bias, residual and activation into the linear operators."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its epilogues fused."""
        return rewrite_with_sources(mod, _fuse)


def _fuse(call: relax.Call, sources: Sequence[relax.Expr | None]) -> relax.Expr | None:
    linear = [source if _can_grow(source) else None for source in sources]
    activation = activation_of(call)
    if activation is not None and linear[0] is not None:
        return operators.with_epilogue(linear[0], activation=activation)
    if is_call_to(call, "relax.add"):
        for this, other in ((0, 1), (1, 0)):
            if linear[this] is not None:
                fused = _add(linear[this], call.args[this], call.args[other])
                if fused is not None:
                    return fused
    return None


def _can_grow(source: relax.Expr | None) -> bool:
    """Whether `source` is a linear operator without an activation, the epilogue's last step."""
    if source is None or not is_call_to(source, *operators.WITH_EPILOGUE):
        return False
    return not source.attrs["activation"]


def _add(linear: relax.Call, result: relax.Expr, other: relax.Expr) -> relax.Call | None:
    """Return `linear` with `other` added as its bias or its residual, or None."""
    rows, channels, lanes = extents_of(result) or (0, 0, 0)
    shape = extents_of(other)
    is_bias = shape == (channels, 1) and isinstance(other, tvm.ir.GenericConst)
    if is_bias and not linear.attrs["bias"]:
        bias = relax.const(other.value.numpy().reshape(channels))
        return operators.with_epilogue(linear, bias=bias)
    if shape == (rows, channels, lanes) and not linear.attrs["residual"]:
        return operators.with_epilogue(linear, residual=other)
    return None
