r"""LayerNorm, written as several operators => relax.nn.layer_norm.

.. math::

    y = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{mean}((x - \mathrm{mean}(x))^2) + \epsilon}}
        \, \gamma + \beta

with both means over the last axes and :math:`\gamma`, :math:`\beta` of the shape of those axes
(Ba, Kiros and Hinton, "Layer Normalization", 2016, equations 3 and 4). A missing
:math:`\beta` is 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tvm
from tvm import relax
from tvm.relax.dpl import DFPattern, is_const, is_op, rewrite_call, wildcard

from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.shapes import extents_of


@tvm.transform.module_pass(opt_level=0, name="RecomposeLayerNorm")
class RecomposeLayerNorm:
    """Recompose `relax.nn.layer_norm`."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with every written-out LayerNorm as one operator."""
        pattern, after = _LayerNormPattern(), mod.clone()
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                # The pattern with beta comes first: inside it, the one without beta matches, too.
                for root in (pattern.shifted, pattern.scaled):
                    if _has_mean(func):  # the search takes longer than all other passes like it
                        func = rewrite_call(root, pattern.rewrite, func)
                        func = relax.analysis.remove_all_unused(func)
                after[gvar] = func
        return after


def _has_mean(func: relax.Function) -> bool:
    """Return whether a function calls `relax.mean`, as every written-out LayerNorm does."""
    found: list[relax.Expr] = []

    def visit(expr: relax.Expr) -> None:
        if is_call_to(expr, "relax.mean"):
            found.append(expr)

    relax.analysis.post_order_visit(func, visit)
    return bool(found)


class _LayerNormPattern:
    def __init__(self) -> None:
        self.x, self.gamma, self.beta = wildcard(), wildcard(), wildcard()
        self.epsilon, exponent = is_const(), is_const()
        self.mean = is_op("relax.mean")(self.x)
        centred = is_op("relax.subtract")(self.x, self.mean)
        self.power = is_op("relax.power")(centred, exponent)
        self.exponent = exponent
        square = self.power | is_op("relax.multiply")(centred, centred)
        self.variance = is_op("relax.mean")(square)
        deviation = is_op("relax.sqrt")(_commuted("add", self.variance, self.epsilon))
        normalized = is_op("relax.divide")(centred, deviation)
        self.scaled = _commuted("multiply", normalized, self.gamma)
        self.shifted = _commuted("add", self.scaled, self.beta)

    def rewrite(self, call: relax.Call, found: Mapping[DFPattern, relax.Expr]) -> relax.Expr:
        x, gamma = found[self.x], found[self.gamma]
        axes = _trailing_axes(x, found[self.mean])
        epsilon = uniform_value(found[self.epsilon])
        if axes is None or axes != _trailing_axes(x, found[self.variance]) or epsilon is None:
            return call
        if self.power in found and uniform_value(found[self.exponent]) != 2.0:
            return call
        shape = (extents_of(x) or ())[-len(axes) :]
        zero = relax.const(np.zeros(shape), x.ty.dtype)
        beta = found.get(self.beta, zero)
        if not extents_of(gamma) == extents_of(beta) == shape:
            return call
        return relax.op.nn.layer_norm(x, gamma, beta, axes, epsilon)


def _commuted(op: str, a: DFPattern, b: DFPattern) -> DFPattern:
    return is_op(f"relax.{op}")(a, b) | is_op(f"relax.{op}")(b, a)


def _trailing_axes(x: relax.Expr, mean: relax.Call) -> list[int] | None:
    """Return the axes, counted from the end, if the mean is over the last axes and keeps them."""
    shape = extents_of(x)
    if shape is None or not mean.attrs.keepdims or mean.attrs.axis is None:
        return None
    axes = sorted(int(axis) % len(shape) - len(shape) for axis in mean.attrs.axis)
    return axes if axes == list(range(-len(axes), 0)) else None
