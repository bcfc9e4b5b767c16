"""MoveToPanels: f(from_panels(p)) => from_panels(f(p)), to_panels(from_panels(p)) => p

f is an elementwise operator, a normalization over the channels, an attention, or a reshape that
leaves the panels as they are. Layout changes move down the graph this way until they meet and
cancel. Those that remain stand at the borders of the network.

Runs after `SparsifyWeights` and `PackDenseWeights`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType, holds
from tvm_sparse.passes.canonicalize.attention_scores import unguarded
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators import Layout
from tvm_sparse.passes.ir.operators.elementwise import BINARY, UNARY
from tvm_sparse.passes.ir.operators.layouts import dtype_named, lanes_of
from tvm_sparse.passes.ir.operators.operator import dtype_of
from tvm_sparse.passes.ir.shapes import (
    extents_of,
    is_symbolic,
    known_extents,
    lowered,
    reshaped,
)
from tvm_sparse.passes.sparsify.mover import Mover, move_all, without_views
from tvm_sparse.passes.sparsify.token_lanes import token_lanes
from tvm_sparse.schedules.operators.dynamic_range import Valid

_ATTENTIONS = (
    *("relax.nn.attention", "relax.nn.attention_bias"),
    operators.ROUNDED_ATTENTION.name,
)


@tvm.transform.module_pass(opt_level=0, name="MoveToPanels")
class MoveToPanels:
    """Move every operator that can work on panels there."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its layout changes moved down and cancelled."""
        return move_all(mod, self.cpu, _Mover)


class _Mover(Mover):
    """The rules of operators on tokens."""

    def move(self) -> relax.Expr | None:
        """Return the expression that takes the place of the call, or None."""
        call = self.call
        if is_call_to(call, operators.TO_PANELS.name):
            return self._cancel(call)
        if is_call_to(call, "relax.reshape"):
            return self._reshape(call)
        if is_call_to(call, "relax.nn.layer_norm"):
            return self._layer_norm(call)
        if is_call_to(call, *_ATTENTIONS):
            return self._attention(call)
        if is_call_to(call, operators.SENTENCE_ATTENTION.name):
            return self._sentence_attention(call)
        if is_call_to(call, "relax.where"):
            return self._guard(call)
        if is_call_to(call, operators.DYNAMIC_RANGE.name):
            return self._range(call)
        return self._elementwise(call) if is_call_to(call, *UNARY, *BINARY) else None

    def _panels_of(self, value: relax.Expr) -> tuple[relax.Expr, tuple[int, ...]] | None:
        """Return the panels that `value` was read from, and the shape they were read as.

        One reshape in between is ignored if it leaves the channels alone, as between flat and
        batched tokens.
        """
        call = self.lookup(value)
        if is_call_to(call, "relax.reshape") and _same_channels(value, call.args[0]):
            call = self.lookup(call.args[0])
        if not is_call_to(call, operators.FROM_PANELS.name):
            return None
        return operators.FROM_PANELS.operand(call, "x"), known_extents(call)

    @staticmethod
    def _holds(found: tuple[relax.Expr, tuple[int, ...]], layout: Layout, dtype: DType) -> bool:
        """Return whether panels from `_panels_of` are of a layout and a type."""
        panels, shape = found
        held = Layout.of(shape, lanes_of(panels))
        return held.is_compatible(layout) and dtype_of(panels) == dtype

    def _as_panels(self, value: relax.Expr, layout: Layout, dtype: DType) -> relax.Expr:
        """Return panels of `layout` that hold `value`; others are laid out anew."""
        found = self._panels_of(value)
        if found and self._holds(found, layout, dtype):
            return found[0]
        shape = (layout.batch, layout.tokens, layout.channels)
        if Layout.of(extents_of(value) or (), layout.lanes) != layout:
            value = self.emit(reshaped(value, shape))
        return self.emit(operators.to_panels(value, layout.lanes, dtype))

    def _cancel(self, call: relax.Call) -> relax.Expr | None:
        """to_panels(from_panels(p)) => p"""
        x = operators.TO_PANELS.operand(call, "x")
        found = self._panels_of(x)
        if found is None:
            return None
        layout = Layout.of(known_extents(x), int(call.attrs["lanes"]))
        return found[0] if self._holds(found, layout, dtype_named(call)) else None

    def _reshape(self, call: relax.Call) -> relax.Expr | None:
        """reshape(reshape(x)) => reshape(x), or x itself"""
        source, shape = call.args[0], extents_of(call)
        inner = self.lookup(source)
        if shape is None:
            return None
        if is_call_to(inner, "relax.reshape"):
            source = inner.args[0]
        if extents_of(source) == shape:
            return source
        return reshaped(source, shape)

    def _elementwise(self, call: relax.Call) -> relax.Expr | None:
        """f(from_panels(p), q) => from_panels(f(p, to_panels(q)))"""
        shape = extents_of(call)
        found = next((f for f in map(self._panels_of, call.args) if f is not None), None)
        if found is None or shape is None or call.ty.dtype != ACTIVATIONS:
            return None
        panels, panel_shape = found
        if shape[-1] != panel_shape[-1] or math.prod(shape) != math.prod(panel_shape):
            return None
        layout = Layout.of(panel_shape, lanes_of(panels))
        dtype = dtype_of(panels)
        args = [self._operand(arg, shape, layout, dtype) for arg in call.args]
        if any(a is None for a in args):
            return None
        return self._read(relax.Call(call.op, args, call.attrs), panel_shape, shape)

    def _guard(self, call: relax.Call) -> relax.Expr | None:
        """where(isnan(x), 0, x) of x = from_panels(p) => from_panels(where(isnan(p), 0, p))"""
        x, guarded = unguarded(call, self.lookup)
        found, shape = self._panels_of(x) if guarded else None, extents_of(call)
        if found is None or shape is None:
            return None
        panels, panel_shape = found
        blind = self.emit(relax.op.isnan(panels))
        moved = relax.op.where(blind, relax.const(0, dtype_of(panels)), panels)
        return self._read(moved, panel_shape, shape)

    def _range(self, call: relax.Call) -> relax.Expr | None:
        """dynamic_range(view(from_panels(p))) => dynamic_range(p) of the lanes that hold tokens"""
        x = self.lookup(without_views(call.args[0], self.lookup))
        if not is_call_to(x, operators.FROM_PANELS.name):
            return None
        panels = operators.FROM_PANELS.operand(x, "x")
        layout = Layout.of(known_extents(x), lanes_of(panels))
        valid = Valid(-(-layout.tokens // layout.lanes), layout.tokens)
        return operators.dynamic_range(panels, valid)

    def _read(
        self, panels: relax.Call, panel_shape: tuple[int, ...], shape: tuple[int, ...]
    ) -> relax.Expr:
        """Return from_panels(panels) as a tensor of shape `shape`."""
        tensor = operators.from_panels(self.emit(panels), panel_shape)
        if shape == panel_shape:
            return tensor
        return reshaped(self.emit(tensor), shape)

    def _operand(
        self, value: relax.Expr, shape: tuple[int, ...], layout: Layout, dtype: DType
    ) -> relax.Expr | None:
        """Return `value` as an operand beside panels of a tensor of shape `shape`, or None."""
        if extents_of(value) == shape:
            return self._as_panels(value, layout, dtype)
        if not isinstance(value, tvm.ir.GenericConst):
            # The scalar arguments of clip and leakyrelu are not tensors.
            is_tensor = isinstance(value.ty, relax.TensorType)
            return self._of_channels(value, layout, dtype) if is_tensor else value
        array = value.value.numpy()
        if not holds(array, dtype):
            return None
        if array.size == 1:
            return relax.const(array.astype(dtype).reshape(()))
        if array.ndim and array.size == array.shape[-1] == layout.channels:
            return relax.const(array.astype(dtype).reshape(layout.channels, 1))
        if is_symbolic(shape):
            return None  # nobody knows how often the array repeats
        whole = relax.const(np.broadcast_to(array, shape).copy())
        return self._as_panels(whole, layout, dtype)

    def _of_channels(self, value: relax.Expr, layout: Layout, dtype: DType) -> relax.Expr | None:
        """Return a number, or one for each channel, that is computed when the network runs."""
        extents = extents_of(value)
        if value.ty.dtype != ACTIVATIONS or extents is None or is_symbolic(extents):
            return None
        size = math.prod(extents)
        if size != 1 and (size != extents[-1] or size != layout.channels):
            return None
        if dtype != ACTIVATIONS:
            value = self.emit(relax.op.astype(value, dtype))
        return self.emit(relax.op.reshape(value, () if size == 1 else (size, 1)))

    def _layer_norm(self, call: relax.Call) -> relax.Expr | None:
        """layer_norm(x) over the channels => from_panels(layer_norm(to_panels(x)))"""
        x, gamma, beta = call.args
        shape, axes = extents_of(x), [int(a) for a in call.attrs["axes"]]
        if shape is None or len(shape) < 2 or axes not in ([-1], [len(shape) - 1]):
            return None
        if call.ty.dtype != ACTIVATIONS or not (call.attrs["center"] and call.attrs["scale"]):
            return None
        found = self._panels_of(x)
        dtype = dtype_of(found[0]) if found else self.cpu.activations
        lanes = lanes_of(found[0]) if found else token_lanes(self.cpu, dtype, shape[-2])
        if lanes == 1:  # its kernel normalizes a vector of tokens at a time
            return None
        panels = found[0] if found else self._as_panels(x, Layout.of(shape, lanes), dtype)
        moved = operators.layer_norm(panels, gamma, beta, float(call.attrs["epsilon"]))
        return self._read(moved, found[1] if found else shape, shape)

    def _attention(self, call: relax.Call) -> relax.Expr | None:
        """attention(q, k, v) => reshape(from_panels(attention(to_panels(...))))"""
        query, key, value, *bias = call.args
        q_shape, k_shape, v_shape = map(extents_of, (query, key, value))
        if q_shape is None or k_shape is None or v_shape != k_shape or call.ty.dtype != ACTIVATIONS:
            return None
        if call.attrs["causal_mask"] is not None or call.attrs["window_size"] is not None:
            return None
        batch, tokens, heads, head_dim = q_shape
        key_tokens = k_shape[1]
        bias_shape = extents_of(bias[0]) if bias else ()
        if bias_shape is None or k_shape[2:] != q_shape[2:]:
            return None
        if bias and (len(bias_shape) != 4 or bias_shape[3] != key_tokens):
            return None
        whole = (batch, heads, tokens)
        if any(n != 1 and n != m for n, m in zip(bias_shape, whole, strict=False)):
            return None
        if is_symbolic(q_shape[2:]):
            return None
        scale = call.attrs["scale"]
        channels = heads * head_dim
        dtype = self.cpu.activations
        lanes = token_lanes(self.cpu, dtype, tokens, key_tokens)
        query_panels, key_panels, value_panels = (
            self._as_panels(
                self._flat(x, (batch, t, channels)), Layout(batch, t, channels, lanes), dtype
            )
            for x, t in ((query, tokens), (key, key_tokens), (value, key_tokens))
        )
        attrs: dict[str, Any] = {
            "batch": lowered(batch),
            "tokens": lowered(tokens),
            "key_tokens": lowered(key_tokens),
            "heads": heads,
            "head_dim": head_dim,
            "scale": 1 / math.sqrt(head_dim) if scale is None else float(scale),
        }
        roundings = operators.roundings_of(call)
        if not roundings.is_empty:
            attrs["roundings"] = roundings.to_fields()
        moved = operators.attention(
            query_panels, key_panels, value_panels, bias[0] if bias else None, attrs
        )
        return self._read(moved, (batch, tokens, channels), q_shape)

    def _sentence_attention(self, call: relax.Call) -> relax.Expr:
        """sentence_attention(q, k, v) => reshape(from_panels(packed_attention(to_panels(...))))"""
        rows, lanes, heads, head_dim = known_extents(call)
        shape = rows, lanes, heads * head_dim
        panels = [
            self._as_panels(self._flat(x, shape), Layout(*shape, lanes), self.cpu.activations)
            for x in call.args[:3]
        ]
        moved = operators.packed_attention(call, panels, heads)
        return self._read(moved, shape, (*shape[:2], heads, head_dim))

    def _flat(self, x: relax.Expr, shape: tuple[int, int, int]) -> relax.Expr:
        """Return `x` `(batch, tokens, heads, head_dim)` as `(batch, tokens, channels)`."""
        inner = self.lookup(x)
        if is_call_to(inner, "relax.reshape") and extents_of(inner.args[0]) == shape:
            return inner.args[0]
        return self.emit(reshaped(x, shape))


def _same_channels(a: relax.Expr, b: relax.Expr) -> bool:
    a_shape, b_shape = extents_of(a), extents_of(b)
    if not a_shape or not b_shape:
        return False
    return len(a_shape) > 1 and len(b_shape) > 1 and a_shape[-1] == b_shape[-1]
