r"""The products and the softmax of attention => relax.nn.attention.

.. math::

    \mathrm{attention}(q, k, v, b)
        = \mathrm{softmax}\left(\mathit{scale} \cdot q k^\top + b\right) v

for every sequence of the batch and every head (Vaswani et al., "Attention Is All You Need", 2017,
equation 1). The operator takes q, k and v as ``(batch, tokens, heads, head_dim)``, which is the
memory order of a linear layer's output. Operands are traced back as views of that output, so the
transposes that exporters insert cancel, however they are written. A scale may be applied to q, to
k, to both or to the scores. Masks may be added, or selected with `where`.

For a row in which all keys are masked, softmax gives NaN, which PyTorch's exporter replaces by 0.
This guard is dropped where the mask is finite, because then there is no such row. Otherwise it is
applied to the result. Attention stays as it is if anything else reads its weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import tvm
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.passes.canonicalize.attention_scores import (
    Scores,
    leading_shape,
    read_scores,
    unguarded,
    unreshaped,
)
from tvm_sparse.passes.canonicalize.narrow import lower_bound, narrow
from tvm_sparse.passes.canonicalize.sink_views import sink_views
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.dataflow import Dataflow, dataflow_blocks
from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import broadcast, extents_of, reshaped
from tvm_sparse.passes.ir.view_chains import RESHAPING, follow
from tvm_sparse.sizes.extent import Extent


@tvm.transform.module_pass(opt_level=0, name="RecomposeAttention")
class RecomposeAttention:
    """Recompose `relax.nn.attention` and `relax.nn.attention_bias`."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with every written-out attention as one operator."""
        return rewrite_calls(mod, _rewrite, keep=_with_shared_weights(mod))


def _rewrite(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    # Views move in the same sweep: the transposes of a layer meet those of the next attention.
    attention = _recompose(call, lookup, emit)
    return sink_views(call, lookup, emit) if attention is None else attention


def _recompose(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.matmul") or call.ty.dtype != ACTIVATIONS:
        return None
    weights = unreshaped(call.args[0], lookup)
    steps: list[Quantization] = []
    while is_call_to(lookup(weights), operators.FAKE_QUANTIZE.name):
        steps.insert(0, operators.steps_of(lookup(weights)))
        weights = unreshaped(lookup(weights).args[0], lookup)
    weights, guarded = unguarded(weights, lookup)
    softmax, shape = lookup(weights), extents_of(weights) or ()
    if not is_call_to(softmax, "relax.nn.softmax") or len(shape) not in (3, 4):
        return None
    if int(softmax.attrs.axis) % len(shape) != len(shape) - 1:
        return None
    scores = read_scores(softmax.args[0], lookup, emit)
    if scores is None or leading_shape(call.args[1]) != leading_shape(call):
        return None
    groups = _batch_and_heads(extents_of(call) or (), shape, scores, lookup)
    if isinstance(groups[1], Extent) and scores.bias is None:
        groups = groups[0] * groups[1], 1  # the rows of an image, whose pixels attend to each other
    q = _per_token(scores.query, groups, (0, 2, 1, 3), lookup, through_scaling=True)
    k = _per_token(scores.key, groups, (0, 3, 1, 2), lookup, through_scaling=True)
    v = _per_token(call.args[1], groups, (0, 2, 1, 3), lookup, through_scaling=False)
    if q is None or k is None or v is None:
        return None
    bias = scores.bias
    if bias is not None:
        bias = narrow(bias, lookup, emit)
        masks = uniform_value(bias) != 0
        bias = emit(_of_rank_4(bias, groups, shape[-1])) if masks else None
    scale = scores.scale * q.factor * k.factor
    roundings = replace(scores.roundings, weights=tuple(steps))
    if roundings.is_empty:
        out = emit(relax.op.nn.attention(q.value, k.value, v.value, bias, scale))
    else:
        tensors = [emit(operand.value) for operand in (q, k, v)]
        shapes = [extents_of(tensor) for tensor in tensors]
        if shapes[0] is None or shapes[1] is None or shapes[1] != shapes[2]:
            return None
        if shapes[0][2:] != shapes[1][2:]:
            return None  # no kernel attends to such tensors with roundings
        tensors += [] if bias is None else [bias]
        out = emit(operators.rounded_attention(tensors, scale, roundings))
    if guarded and bias is not None and lower_bound(bias, lookup) == -math.inf:
        out = _nan_to_zero(out, emit)
    out = relax.op.permute_dims(out, [0, 2, 1, 3])
    is_whole = extents_of(call) == (*groups, *(extents_of(call) or ())[-2:])
    return out if is_whole else relax.op.reshape(out, call.ty.shape)


def _nan_to_zero(out: relax.Expr, emit: Emit) -> relax.Expr:
    shape = extents_of(out) or ()
    # The guard stands on the tokens, so that only views lie between attention and linear layers.
    tokens = emit(reshaped(out, (*shape[:2], -1)))
    blind = emit(relax.op.isnan(tokens))
    tokens = emit(relax.op.where(blind, relax.const(0, out.ty.dtype), tokens))
    return emit(reshaped(tokens, shape))


def _with_shared_weights(mod: tvm.IRModule) -> list[relax.Call]:
    """Return the products with attention weights that have other readers."""
    return [
        value
        for block in dataflow_blocks(mod)
        for var, value in block.bound.items()
        if is_call_to(value, "relax.matmul") and _shares_weights(var, value.args[0], block)
    ]


def _shares_weights(product: relax.Var, weights: relax.Expr, block: Dataflow) -> bool:
    """Whether `weights`, or the softmax that they come from, have readers beside `product`."""
    path, steps = [product], [weights]
    while not is_call_to(block.lookup(steps[-1]), "relax.nn.softmax"):
        source, guarded = unguarded(steps[-1], block.lookup)
        call = block.lookup(steps[-1])
        if guarded:
            path.append(call.args[0])
        elif is_call_to(call, *RESHAPING, operators.FAKE_QUANTIZE.name):
            source = call.args[0]
        else:
            return False
        steps.append(source)
    return not all(block.is_read_only_by(step, path + steps) for step in steps)


def _batch_and_heads(
    result: tuple[int, ...], weights: tuple[int, ...], scores: Scores, lookup: Lookup
) -> tuple[int, int]:
    """Return the extents of batch and heads, which may be merged in one axis."""
    for known in (result, weights, scores.shape):
        if len(known) == 4:
            return known[0], known[1]
    view = follow(scores.query, lookup, through_scaling=True)
    if view is not None and len(view.axes[0]) == 2:
        (batch, _), (heads, _) = view.axes[0]
        return batch, heads
    # Heads lie inside a token, sequences around it.
    strides = [max((s for _, s in axis), default=0) for axis in view.axes] if view else [0, 0]
    return (1, result[0]) if strides[0] < strides[1] else (result[0], 1)


@dataclass(frozen=True)
class _Operand:
    """An operand of attention: ``value * factor``."""

    value: relax.Expr
    factor: float


def _per_token(
    operand: relax.Expr,
    groups: tuple[int, int],
    order: tuple[int, ...],
    lookup: Lookup,
    *,
    through_scaling: bool,
) -> _Operand | None:
    """Return `operand` as ``(batch, tokens, heads, head_dim)`` without its scale, and the scale."""
    split = (*groups, *(extents_of(operand) or ())[-2:])
    view = follow(operand, lookup, through_scaling=through_scaling)
    per_head = view.reshape(split) if view is not None else None
    if view is None or per_head is None:
        return None
    traced = per_head.permute(order).materialize()
    if traced is not None:
        return _Operand(traced, view.factor)
    return _Operand(relax.op.permute_dims(reshaped(operand, split), order), 1.0)


def _of_rank_4(bias: relax.Expr, groups: tuple[int, int], keys: int) -> relax.Expr:
    """Return a bias of four axes, whose batch and heads may be merged in one axis."""
    shape = extents_of(bias) or ()
    if len(shape) == 3:
        shape = (*((1, 1) if shape[0] == 1 else groups), *shape[1:])
        bias = reshaped(bias, shape)
    # The operator broadcasts all axes but the last.
    return bias if shape[-1] == keys else broadcast(bias, (*shape[:-1], keys))
