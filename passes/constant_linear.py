"""The shape that a linear layer has in a network: ``matmul(x, w)`` with a constant w."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.operators import Layout, is_call_to, static_shape
from tvm_sparse.targets import CpuProfile


@dataclass(frozen=True)
class ConstantLinear:
    """A linear layer `y = x w` of the graph.

    Attributes
    ----------
    x : relax.Expr
        `(..., tokens, in_channels)` float32.
    weight : numpy.ndarray
        `(out_channels, in_channels)` float32: w transposed.
    layout : Layout
        Of `x`.
    out_shape : tuple of int
        `(..., tokens, out_channels)`.
    """

    x: relax.Expr
    weight: np.ndarray
    layout: Layout
    out_shape: tuple[int, ...]


def match_constant_linear(call: relax.Call, cpu: CpuProfile) -> ConstantLinear | None:
    """Return the linear layer that `call` is, or None."""
    if not is_call_to(call, "relax.matmul"):
        return None
    x, w = call.args
    shape = static_shape(x)
    if not isinstance(w, tvm.ir.GenericConst) or shape is None or len(shape) < 2:
        return None
    if len(static_shape(w) or ()) != 2 or 0 in shape:
        return None
    if x.ty.dtype != "float32" or w.ty.dtype != "float32":
        return None
    weight = np.ascontiguousarray(w.value.numpy().T)
    layout = Layout.of(shape, cpu.panel_lanes(shape[-2]))
    return ConstantLinear(x, weight, layout, (*shape[:-1], weight.shape[0]))
