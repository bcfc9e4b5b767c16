"""The rules by which operators work on packed tokens: a forward analysis that also rewrites.

A tensor is *padded*, as the model says, or *packed*. What only depends on padded tensors may stay
padded. A packed tensor has the right values at every token that the mask has; so an operator may
take it if the result at such a token, or of such a sentence, depends on nothing else. Each operator
that takes packed tensors has a rule here, and what has no rule is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import tvm
from tvm import relax

from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import integers, is_call_to, uniform_value
from tvm_sparse.passes.ir.operators.elementwise import ELEMENTWISE
from tvm_sparse.passes.ir.places import same
from tvm_sparse.passes.ir.shapes import extents_of, is_symbolic, lowered
from tvm_sparse.passes.ir.view_chains import RESHAPING
from tvm_sparse.passes.ir.views import View
from tvm_sparse.passes.padding.masks import FUNCTIONS, Masked, Masks
from tvm_sparse.passes.padding.tokens import Tokens, most_tokens

ATTENTIONS = (
    *("relax.nn.attention", "relax.nn.attention_bias"),
    operators.ROUNDED_ATTENTION.name,
)
OF_ELEMENTS = frozenset(
    {
        *FUNCTIONS, *ELEMENTWISE, "relax.astype", "relax.isnan", "relax.isinf", "relax.power",
        "relax.erf", "relax.exp", "relax.log", "relax.sqrt", "relax.rsqrt", "relax.tanh",
        "relax.sin", "relax.cos", "relax.abs", "relax.sign", "relax.clip", "relax.nn.dropout",
    }
)  # fmt: skip
ALONG_AXES = {
    "relax.nn.layer_norm": "axes", "relax.nn.rms_norm": "axes",
    "relax.nn.softmax": "axis", "relax.nn.log_softmax": "axis",
}  # fmt: skip
"""Operators along some axes, and the attribute that says which."""
REDUCTIONS = ("relax.sum", "relax.mean", "relax.max", "relax.min", "relax.variance", "relax.std")


class Refusal(Exception):
    """Why padded tokens cannot be left out."""


@dataclass(frozen=True)
class Packed:
    """A packed tensor.

    Attributes
    ----------
    value : relax.Expr
        The tensor.
    shape : tuple of int
        The shape of the tensor that is padded.
    is_zero : bool
        Whether the padded tensor is 0 wherever the mask is 0.
    """

    value: relax.Expr
    shape: tuple[int, ...]
    is_zero: bool = False


@dataclass(frozen=True)
class Packer:
    """Applies the rules.

    Attributes
    ----------
    tokens : Tokens
        Packs and unpacks.
    masks : Masks
        Reads what depends on the mask.
    known : mapping of relax.Var to Packed
        The variables that are packed.
    hidden : float
        The largest bias of attention that gives a key the weight 0.
    of_first : list of relax.Expr
        The results that are made of the first token of each sentence.
    """

    tokens: Tokens
    masks: Masks
    known: Mapping[relax.Var, Packed]
    hidden: float
    of_first: list[relax.Expr] = field(default_factory=list)

    def apply(self, call: relax.Call, layer: str) -> Packed | relax.Expr:
        """Return the result of a call that takes packed tensors, or begins to: packed or padded.

        Raises
        ------
        Refusal
            If the result would depend on tokens that the mask leaves out.
        """
        shape = extents_of(call)
        result = None if shape is None else self._apply(call, shape)
        if result is None:
            name = getattr(call.op, "name", "relax.function").removeprefix("relax.")
            raise Refusal(f"{layer!r} ({name}) reads tokens that the mask leaves out")
        return result

    def begins(self, call: relax.Call) -> bool:
        """Whether a call of padded tensors makes features of each token, which shall be packed."""
        shape = extents_of(call)
        if shape is None or self.tokens.leading(shape) != 2 or len(shape) < 3:
            return False
        return str(call.ty.dtype).startswith("float") and shape[-1] != 1

    def _apply(self, call: relax.Call, shape: tuple[int, ...]) -> Packed | relax.Expr | None:
        if is_call_to(call, *OF_ELEMENTS):
            return self._of_elements(call, shape)
        if is_call_to(call, *ATTENTIONS):
            return self._attention(call, shape)
        if is_call_to(call, "relax.take"):
            return self._take(call, shape)
        if is_call_to(call, "relax.strided_slice"):
            return self._slice(call, shape)
        if is_call_to(call, *REDUCTIONS):
            return self._reduction(call, shape)
        x = self._packed(call.args[0])
        if x is None or not self.tokens.leading(shape):
            return None
        if is_call_to(call, *RESHAPING, "relax.broadcast_to"):
            return self._reshape(call, x, shape)
        others = [arg for arg in call.args[1:] if isinstance(arg, relax.Var)]
        if any(arg in self.known for arg in others):
            return None
        if is_call_to(call, "relax.matmul"):
            is_weight = len(extents_of(call.args[1]) or ()) == 2
            return self._again(call, x, shape) if is_weight else None
        if is_call_to(call, *ALONG_AXES):
            name = ALONG_AXES[call.op.name]
            given = call.attrs[name] if name == "axes" else [call.attrs[name]]
            axes = [int(axis) for axis in given]
            return self._again(call, x, shape) if self._are_inner(axes, x.shape) else None
        return None

    def _packed(self, value: relax.Expr) -> Packed | None:
        return self.known.get(value) if isinstance(value, relax.Var) else None

    def _again(self, call: relax.Call, x: Packed, shape: tuple[int, ...]) -> Packed:
        """Return a call that computes the same of each packed token."""
        moved = relax.Call(call.op, [x.value, *call.args[1:]], call.attrs)
        return Packed(moved, shape)

    def _are_inner(self, axes: Sequence[int], shape: tuple[int, ...]) -> bool:
        """Whether axes are behind those of the tokens."""
        leading = self.tokens.leading(shape)
        return all(axis % len(shape) >= leading for axis in axes)

    def _of_elements(self, call: relax.Call, shape: tuple[int, ...]) -> Packed | None:
        leading = self.tokens.leading(shape)
        args: list[relax.Expr] = []
        for arg in call.args:
            known, own = self._packed(arg), None
            if isinstance(getattr(arg, "ty", None), relax.TensorType):
                own = extents_of(arg)
                if own is None or len(own) > len(shape):
                    return None
            if known is not None:
                if self.tokens.leading(known.shape) != leading or len(known.shape) != len(shape):
                    return None
                args.append(known.value)
            elif own is None or all(n == 1 for n in own[: max(len(own) - len(shape) + leading, 0)]):
                args.append(arg)  # the same for all tokens
            else:
                inner = own[len(own) - len(shape) + leading :]
                args.append(self.tokens.pack(arg, (*shape[:leading], *inner)))
        return Packed(relax.Call(call.op, args, call.attrs), shape, self._is_zero(call))

    def _is_zero(self, call: relax.Call) -> bool:
        """Whether a product or a choice is 0 wherever the mask is 0."""
        read = [self._masked(arg) for arg in call.args]
        packed = [self._packed(arg) for arg in call.args]
        if is_call_to(call, "relax.multiply"):
            zeros = [m is not None and m.at_masked == 0 for m in read]
            return any(zeros) or any(p is not None and p.is_zero for p in packed)
        if is_call_to(call, "relax.where"):
            if read[0] is None:
                return False
            i = 1 if read[0].at_masked else 2
            known = packed[i]
            return uniform_value(call.args[i]) == 0 or (known is not None and known.is_zero)
        if is_call_to(call, "relax.astype"):
            return packed[0] is not None and packed[0].is_zero
        return False

    def _masked(self, value: relax.Expr) -> Masked | None:
        """Return what is known of a padded tensor that follows the mask, token by token."""
        found, shape = self.masks.read(value), extents_of(value)
        if found is None or found.view is None or shape is None or len(shape) < 2:
            return None
        tokens, inner = found.view.axes[:2], found.view.axes[2:]
        is_whole = same(replace(found.view, axes=tokens), View.whole(self.tokens.map.mask))
        repeats = all(step == 0 for axis in inner for _, step in axis)
        return found if is_whole and repeats else None

    def _reshape(self, call: relax.Call, x: Packed, shape: tuple[int, ...]) -> Packed | None:
        """Return the same elements of each token in another shape."""
        if not self.tokens.leading(x.shape):
            return None
        leads = [self.tokens.leading(s) for s in (x.shape, shape)]
        sizes = [math.prod(s[lead:]) for s, lead in zip((x.shape, shape), leads, strict=True)]
        packed = self.tokens.packed_shape(shape)
        target = relax.ShapeExpr([lowered(n) for n in packed])
        if is_call_to(call, "relax.broadcast_to"):
            if len(x.shape) != len(shape):
                return None
            return Packed(relax.op.broadcast_to(x.value, target), shape, x.is_zero)
        if sizes[0] != sizes[1]:
            return None
        return Packed(relax.op.reshape(x.value, target), shape, x.is_zero)

    def _attention(self, call: relax.Call, shape: tuple[int, ...]) -> Packed | None:
        """Return an attention within sentences, if the bias leaves out what the mask leaves out."""
        qkv = [self._packed(arg) for arg in call.args[:3]]
        if any(x is None or x.shape != shape for x in qkv) or len(call.args) < 4:
            return None
        if self.tokens.leading(shape) != 2 or len(shape) != 4 or is_symbolic(shape[2:]):
            return None
        attrs = call.attrs
        if attrs["causal_mask"] is not None or attrs["window_size"] is not None:
            return None
        if not hides(self.masks, call.args[3], self.tokens.map.mask, self.hidden):
            return None
        scale = 1 / math.sqrt(shape[3]) if attrs["scale"] is None else float(attrs["scale"])
        roundings = operators.roundings_of(call)
        fields = None if roundings.is_empty else roundings.to_fields()
        operands = [x.value for x in qkv if x is not None]
        operands += [self.tokens.map.first, self.tokens.map.count]
        most = lowered(most_tokens(self.tokens.map))
        return Packed(operators.sentence_attention(operands, scale, most, fields), shape)

    def _take(self, call: relax.Call, shape: tuple[int, ...]) -> Packed | relax.Expr | None:
        """Return rows of a table at packed indices, or the first token of each sentence."""
        table, index = call.args
        axis, x = call.attrs.axis, self._packed(table)
        if x is None:
            leading = self.tokens.leading(shape)
            if axis is None or int(axis) != 0 or not leading or self._packed(index) is not None:
                return None
            if self.tokens.leading(extents_of(index)) != leading:
                return None
            packed = self.tokens.pack(index, extents_of(index) or ())
            return Packed(relax.op.take(table, packed, axis=0, mode=call.attrs.mode), shape)
        numbers = index.value.numpy() if isinstance(index, tvm.ir.GenericConst) else None
        is_first = numbers is not None and numbers.ravel().tolist() == [0]
        return self._first(x, shape) if is_first and axis is not None and int(axis) == 1 else None

    def _slice(self, call: relax.Call, shape: tuple[int, ...]) -> Packed | relax.Expr | None:
        """Return some channels of each token, or the first token of each sentence."""
        x = self._packed(call.args[0])
        axes, begin, end, *strides = (integers(argument) for argument in call.args[1:])
        if x is None or axes is None:
            return None
        if self._are_inner(axes, x.shape):
            return self._again(call, x, shape)
        is_first = (axes, begin, end) == ([1], [0], [1]) and strides in ([], [[1]])
        return self._first(x, shape) if is_first else None

    def _first(self, x: Packed, shape: tuple[int, ...]) -> relax.Expr | None:
        if self.tokens.leading(x.shape) != 2:
            return None
        first = self.tokens.first_tokens(x.value, x.shape[2:])
        self.of_first.append(first)
        return relax.op.reshape(first, [lowered(n) for n in shape])

    def _reduction(self, call: relax.Call, shape: tuple[int, ...]) -> Packed | relax.Expr | None:
        """Return a reduction of each token, or the sum over the tokens that the mask has."""
        x = self._packed(call.args[0])
        if x is None or call.attrs["axis"] is None:
            return None
        axes = [int(axis) for axis in call.attrs["axis"]]
        if self._are_inner(axes, x.shape):
            return self._again(call, x, shape)
        if not is_call_to(call, "relax.sum") or axes != [1] or not x.is_zero:
            return None
        if self.tokens.leading(x.shape) != 2:
            return None
        padded = self.tokens.unpack(x.value, x.shape)
        return relax.Call(call.op, [padded], call.attrs)


def hides(masks: Masks, bias: relax.Expr, mask: relax.Var, hidden: float) -> bool:
    """Whether a bias of scores is at most `hidden` where a mask of keys is 0, and 0 elsewhere."""
    found, own = masks.read(bias), View.whole(mask)
    if found is None or found.view is None or own is None or len(found.view.axes) != 4:
        return False
    sentences, *repeated, keys = found.view.axes
    wanted = replace(found.view, axes=(sentences, keys))
    repeats = all(step == 0 for axis in repeated for _, step in axis)
    is_hidden = bool(found.at_masked <= hidden) and bool(found.at_other == 0)
    return same(wanted, own) and repeats and is_hidden
