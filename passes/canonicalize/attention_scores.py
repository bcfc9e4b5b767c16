"""Recognizes the scores of attention, scaled and masked in any order, as one formula."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import relax

from tvm_sparse.formats.quantization import NOT_ROUNDED, Quantization, Roundings
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Emit, Lookup
from tvm_sparse.passes.ir.shapes import extents_of, reshaped
from tvm_sparse.passes.ir.view_chains import RESHAPING, scaling

# In float32, a score below 1e22 plus this number is this number, so adding it selects it.
MASKED = -1e30


@dataclass(frozen=True)
class Scores:
    """The argument of an attention's softmax: ``scale * query @ key + bias``."""

    query: relax.Expr
    key: relax.Expr
    shape: tuple[int, ...]
    """Shape of the product: (batch, heads, queries, keys) or (batch * heads, queries, keys)."""
    scale: float = 1.0
    bias: relax.Expr | None = None
    """It has as many axes as the scores that it was added to."""
    roundings: Roundings = NOT_ROUNDED
    """The numbers that the scores are rounded to, before and behind the bias."""


def unreshaped(value: relax.Expr, lookup: Lookup) -> relax.Expr:
    """Return the tensor above all reshapes of `value` that leave its last two axes alone."""
    call = lookup(value)
    if is_call_to(call, *RESHAPING):
        before, after = extents_of(call.args[0]), extents_of(value)
        if before is not None and after is not None and before[-2:] == after[-2:]:
            return unreshaped(call.args[0], lookup)
    return value


def unguarded(weights: relax.Expr, lookup: Lookup) -> tuple[relax.Expr, bool]:
    """Return x and True for weights ``where(isnan(x), 0, x)``; other weights and False."""
    call = lookup(weights)
    if is_call_to(call, "relax.where"):
        condition, replacement, x = lookup(call.args[0]), call.args[1], call.args[2]
        guards = is_call_to(condition, "relax.isnan") and condition.args[0].same_as(x)
        if guards and uniform_value(replacement) == 0:
            return x, True
    return weights, False


def read_scores(value: relax.Expr, lookup: Lookup, emit: Emit) -> Scores | None:
    """Return `value` as a product of queries and keys that is scaled and masked, or None."""
    value = unreshaped(value, lookup)
    call, shape = lookup(value), extents_of(value)
    if not isinstance(call, relax.Call) or shape is None:
        return None
    if is_call_to(call, "relax.matmul"):
        query, key = call.args
        plain = leading_shape(query) == leading_shape(key) == shape[:-2]
        return Scores(query, key, shape) if plain and len(shape) in (3, 4) else None
    if not is_call_to(call, *_SCORE_OPERATORS):
        return None
    for source in call.args:
        # An operand of another shape would repeat the scores.
        if extents_of(source) == shape and uniform_value(source) is None:
            below = read_scores(source, lookup, emit)
            if below is not None:
                return _changed(below, call, source, emit)
    return None


_SCORE_OPERATORS = (
    *("relax.multiply", "relax.divide", "relax.add", "relax.where"),
    operators.FAKE_QUANTIZE.name,
)


def _changed(scores: Scores, call: relax.Call, source: relax.Expr, emit: Emit) -> Scores | None:
    """Return the result of `call` as scores; its argument `source` is `scores`."""
    bias, rank, dtype = scores.bias, len(call.ty.shape), call.ty.dtype
    if bias is not None and len(bias.ty.shape) != rank:
        return None
    if is_call_to(call, operators.FAKE_QUANTIZE.name):
        return replace(scores, roundings=_rounded(scores, operators.steps_of(call)))
    if scores.roundings.biased:
        return None
    factor = scaling(call)
    if factor is not None and not scores.roundings.is_empty:
        if factor <= 0:
            return None
        scores = replace(scores, roundings=scores.roundings.scaled(factor))
    if factor is not None:
        if bias is not None:
            bias = emit(relax.op.multiply(bias, relax.const(factor, dtype)))
        return replace(scores, scale=scores.scale * factor, bias=bias)
    if is_call_to(call, "relax.add"):
        mask = call.args[1] if call.args[0].same_as(source) else call.args[0]
        return replace(scores, bias=_sum(bias, _of_rank(mask, rank, emit), emit))
    if is_call_to(call, "relax.where"):
        condition, *choices = call.args
        fill = next((n for n in map(uniform_value, choices) if n is not None), None)
        if fill is None or fill > MASKED:
            return None
        kept = relax.const(0, dtype) if bias is None else bias
        choices = [kept if choice.same_as(source) else choice for choice in choices]
        mask = emit(relax.op.where(_of_rank(condition, rank, emit), *choices))
        return replace(scores, bias=mask)
    return None


def _rounded(scores: Scores, steps: Quantization) -> Roundings:
    roundings = scores.roundings
    if scores.bias is None:
        return replace(roundings, scores=(*roundings.scores, steps))
    return replace(roundings, biased=(*roundings.biased, steps))


def _sum(a: relax.Expr | None, b: relax.Expr, emit: Emit) -> relax.Expr:
    return b if a is None else emit(relax.op.add(a, b))


def _of_rank(value: relax.Expr, rank: int, emit: Emit) -> relax.Expr:
    shape = extents_of(value) or ()
    missing = rank - len(shape)
    return emit(reshaped(value, (1,) * missing + shape)) if missing else value


def leading_shape(value: relax.Expr) -> tuple[int, ...] | None:
    """Return the shape of a batch of matrices without the matrices."""
    shape = extents_of(value)
    return None if shape is None else shape[:-2]
