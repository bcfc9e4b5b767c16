r"""LayerNorm, written as several operators => relax.nn.layer_norm.

.. math::

    y = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{mean}((x - \mathrm{mean}(x))^2) + \epsilon}}
        \, \gamma + \beta

with both means over the last axes and :math:`\gamma`, :math:`\beta` of the shape of those axes
(Ba, Kiros and Hinton, "Layer Normalization", 2016, equations 3 and 4). A missing
:math:`\beta` is 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of


@tvm.transform.module_pass(opt_level=0, name="RecomposeLayerNorm")
class RecomposeLayerNorm:
    """Recompose `relax.nn.layer_norm`."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with every written-out LayerNorm as one operator."""
        return rewrite_calls(mod, _layer_norm)


def _layer_norm(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    if is_call_to(call, "relax.multiply"):
        for normalized, gamma in _both_ways(call):
            found = _scaled(lookup(normalized), gamma, lookup)
            if found is not None:
                return found
    if is_call_to(call, "relax.add"):
        for scaled, beta in _both_ways(call):
            found = _shifted(lookup(scaled), beta)
            if found is not None:
                return found
    return None


def _both_ways(call: relax.Call) -> Iterator[tuple[relax.Expr, relax.Expr]]:
    first, second = call.args
    yield first, second
    yield second, first


def _scaled(normalized: relax.Expr, gamma: relax.Expr, lookup: Lookup) -> relax.Expr | None:
    """Return ``normalized * gamma`` as a LayerNorm without shift, or None if it is none."""
    if not is_call_to(normalized, "relax.divide"):
        return None
    difference, deviation = normalized.args
    centred, root = lookup(difference), lookup(deviation)
    if not is_call_to(centred, "relax.subtract") or not is_call_to(root, "relax.sqrt"):
        return None
    x, mean, total = centred.args[0], lookup(centred.args[1]), lookup(root.args[0])
    if not is_call_to(mean, "relax.mean") or not mean.args[0].same_as(x):
        return None
    if not is_call_to(total, "relax.add"):
        return None
    axes = _trailing_axes(x, mean)
    for squares, constant in _both_ways(total):
        variance, epsilon = lookup(squares), uniform_value(constant)
        if epsilon is None or not _is_variance(variance, difference, lookup):
            continue
        if axes is None or axes != _trailing_axes(x, variance):
            continue
        shape = (extents_of(x) or ())[-len(axes) :]
        if extents_of(gamma) != shape:
            continue
        zero = relax.const(np.zeros(shape), x.ty.dtype)
        return relax.op.nn.layer_norm(x, gamma, zero, axes, epsilon)
    return None


def _is_variance(variance: relax.Expr, difference: relax.Expr, lookup: Lookup) -> bool:
    """Return whether an expression is the mean of the squares of a difference."""
    if not is_call_to(variance, "relax.mean"):
        return False
    square = lookup(variance.args[0])
    if not is_call_to(square, "relax.power", "relax.multiply"):
        return False
    base, other = square.args
    if not base.same_as(difference):
        return False
    is_product = is_call_to(square, "relax.multiply")
    return other.same_as(difference) if is_product else uniform_value(other) == 2.0


def _shifted(scaled: relax.Expr, beta: relax.Expr) -> relax.Expr | None:
    """Return ``scaled + beta`` as one LayerNorm, or None if it is none."""
    if not is_call_to(scaled, "relax.nn.layer_norm"):
        return None
    x, gamma, zero = scaled.args
    if uniform_value(zero) != 0.0 or extents_of(beta) != extents_of(gamma):
        return None
    axes, epsilon = [int(axis) for axis in scaled.attrs.axes], float(scaled.attrs.epsilon)
    return relax.op.nn.layer_norm(x, gamma, beta, axes, epsilon)


def _trailing_axes(x: relax.Expr, mean: relax.Call) -> list[int] | None:
    """Return the axes, counted from the end, if the mean is over the last axes and keeps them."""
    shape = extents_of(x)
    if shape is None or not mean.attrs.keepdims or mean.attrs.axis is None:
        return None
    axes = sorted(int(axis) % len(shape) - len(shape) for axis in mean.attrs.axis)
    return axes if axes == list(range(-len(axes), 0)) else None
