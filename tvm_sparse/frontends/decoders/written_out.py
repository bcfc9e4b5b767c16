"""Attention written as two products and a softmax, with caches that new keys and values extend.

This is what exports of transformers say, such as those of optimum::

    present = Concat(past, k); keys = heads of present, repeated for the queries that share them
    y = MatMul(Softmax(MatMul(q, Transpose(keys)) * scale + mask), repeated present values)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.decoders.attention import FoundAttention, Lengths
from tvm_sparse.frontends.decoders.extended_caches import ExtendedCache, extended_caches
from tvm_sparse.frontends.decoders.masks import HIDDEN, Mask, mask_of
from tvm_sparse.frontends.decoders.sinks import drops_last, without_sinks
from tvm_sparse.frontends.onnx_file import tensor_array

_TRANSPARENT = {"Cast", "Identity", "Dropout"}
_RANK = 4
"""The dimensions of a value with a batch and heads."""
_REPEATING = {*_TRANSPARENT, "Expand", "Reshape", "Transpose", "Unsqueeze", "Mul", "Div"}


def is_form(graph: onnx.GraphProto) -> bool:
    """Return whether a graph has caches that are extended by Concat, and that a softmax reads."""
    dependent = set(extended_caches(graph))
    for node in graph.node:
        if not dependent.isdisjoint(node.input):
            if node.op_type == "Softmax":
                return True
            dependent.update(node.output)
    return False


def find(model: onnx.ModelProto, folder: Path, lengths: Lengths) -> Iterator[FoundAttention]:
    """Yield the attentions of a decoder at fixed lengths.

    Raises
    ------
    ModelError
        If an attention has another form, or a mask that is not supported; or if a cache belongs to
        no attention.
    """
    reader = _Reader(model, folder, lengths)
    found = [reader.attention(node) for node in model.graph.node if node.op_type == "Softmax"]
    attentions = [one for one in found if one is not None]
    used = {name for one in attentions for name in one.present}
    if others := {one.present for one in extended_caches(model.graph).values()} - used:
        raise ModelError(
            f"the cache {sorted(others)[0]!r} belongs to no attention of a form that is known: a "
            "softmax of scaled, perhaps softly limited and masked products of queries and keys, "
            "times the values (latents of both, as DeepSeek caches them, are not supported)"
        )
    yield from attentions


@dataclass
class _Scores:
    """What stands between the product of queries and keys, and the softmax.

    With a soft cap, they are ``softcap * tanh(factor * product)``. What is added is multiplied by
    factors, too.
    """

    product: onnx.NodeProto
    factor: float = 1.0
    softcap: float = 0.0
    masks: dict[str, float] = field(default_factory=dict)


class _Reader:
    """Reads the attentions of a graph."""

    def __init__(self, model: onnx.ModelProto, folder: Path, lengths: Lengths) -> None:
        self.model, self.folder, self.lengths = model, folder, lengths
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.extended = extended_caches(model.graph)
        self.masks: dict[tuple[tuple[str, float], ...], Mask] = {}

    def attention(self, softmax: onnx.NodeProto) -> FoundAttention | None:
        """Return the attention that a softmax belongs to, None if it belongs to none."""
        read, sinks = without_sinks(softmax.input[0], self.makers, self._array)
        scores = self._scores(read)
        if scores is None:
            return None
        query, factor = self._scaled(scores.product.input[0])
        query = self._with_batch(query)
        keys, key_factor, key_turns = self._cache(scores.product.input[1])
        weighted = self._weighted(softmax.output[0], bool(sinks))
        if keys is None or weighted is None:
            return None
        read, result = weighted
        values, value_factor, value_turns = self._cache(read)
        where = f"the attention of {softmax.name!r} (Softmax)"
        if values is None or key_turns != 1 or value_turns or value_factor != 1.0:
            raise ModelError(f"{where} is computed in a form that is not known")
        heads = math.prod(self.lengths.shapes[scores.product.output[0]][:-2])
        kv_heads = self.lengths.heads(keys.past)
        scale = scores.factor * factor * key_factor * (scores.softcap or 1.0)
        if not scores.masks:
            raise ModelError(f"{where} has no mask: the tokens of a prompt see later ones")
        mask = self._mask(scores.masks)
        if mask.slopes and scores.softcap:
            raise ModelError(f"{where} has slopes of scores that are softly limited")
        # Without heads of a query, all heads have the same slope.
        slopes = mask.slopes if len(mask.slopes) in (0, heads) else mask.slopes * heads
        return FoundAttention(
            node=softmax.name,
            past=(keys.past, values.past),
            present=(keys.present, values.present),
            result=result,
            rows=(query, keys.node.input[1], values.node.input[1]),
            heads_first=True,
            slopes=slopes,
            own_sinks=sinks,
            attributes={
                "num_heads": heads,
                "kv_num_heads": kv_heads,
                "scale": scale,
                "softcap": scores.softcap,
                "window": mask.window,
            },
        )

    def _mask(self, masks: Mapping[str, float]) -> Mask:
        key = tuple(masks.items())
        if key not in self.masks:
            rows, past = self.lengths.rows, self.lengths.past
            self.masks[key] = mask_of(self.model, self.folder, masks, rows, past, False)
        return self.masks[key]

    def _with_batch(self, name: str) -> str:
        """Return a value ``(1, heads, tokens, channels)`` of which another one is a view."""
        node = self.makers.get(name)
        is_view = node is not None and node.op_type == "Reshape" and self._keeps_last_two(node)
        if len(self.lengths.shapes[name]) == _RANK or node is None or not is_view:
            return name
        return self._with_batch(node.input[0])

    def _scores(self, name: str) -> _Scores | None:
        """Read from the input of a softmax up to a product, None if there is none."""
        node = self.makers.get(name)
        if node is None:
            return None
        if node.op_type == "MatMul":
            return _Scores(node)
        is_view = node.op_type == "Reshape" and self._keeps_last_two(node)
        if node.op_type in _TRANSPARENT or is_view:
            return self._scores(node.input[0])
        if node.op_type == "Max":
            # XGLM keeps what is hidden finite.
            above = [name for name in node.input if not self._is_low(name)]
            return self._scores(above[0]) if len(above) == 1 else None
        if node.op_type in ("Mul", "Div"):
            scores, factor = self._scores(node.input[0]), self._number(node.input[1])
            if scores is None or factor is None:
                return None
            factor = factor if node.op_type == "Mul" else 1 / factor
            if scores.softcap:
                scores.softcap *= factor
            else:
                scores.factor *= factor
            scores.masks = {name: factor * known for name, known in scores.masks.items()}
            return scores
        if node.op_type == "Tanh":
            scores = self._scores(node.input[0])
            if scores is not None:
                scores.softcap = 1.0
            return scores
        if node.op_type in ("Add", "Where"):
            for name, mask, factor in self._masked(node):
                scores = self._scores(name)
                if scores is not None:
                    scores.masks[mask] = factor
                    return scores
        return None

    def _masked(self, node: onnx.NodeProto) -> list[tuple[str, str, float]]:
        """Return what may be scores and a mask, and the factor of the mask."""
        if node.op_type != "Where":
            a, b = node.input
            return [(a, b, 1.0), (b, a, 1.0)]
        seen, first, second = node.input
        return [
            (scores, seen, sign)
            for scores, other, sign in ((first, second, 1.0), (second, first, -1.0))
            if self._is_low(other)
        ]

    def _is_low(self, name: str) -> bool:
        tensor = self.constants.get(name)
        return tensor is not None and bool((tensor_array(tensor, self.folder) <= HIDDEN).all())

    def _scaled(self, name: str) -> tuple[str, float]:
        """Return the value of which another one is a multiple, and the factor."""
        factor = 1.0
        while (node := self.makers.get(name)) is not None:
            number = self._number(node.input[1]) if node.op_type in ("Mul", "Div") else 1.0
            if node.op_type not in (*_TRANSPARENT, "Mul", "Div") or number is None:
                break
            factor *= number if node.op_type != "Div" else 1 / number
            name = node.input[0]
        return name, factor

    def _cache(self, name: str) -> tuple[ExtendedCache | None, float, int]:
        """Return the extended cache of which heads are repeated.

        With it, the factor by which it is multiplied, and how often positions and channels are
        swapped.
        """
        factor, turns = 1.0, 0
        while name not in self.extended:
            node = self.makers.get(name)
            if node is None or node.op_type not in _REPEATING:
                return None, factor, turns
            if node.op_type in ("Mul", "Div"):
                number = self._number(node.input[1])
                if number is None:
                    return None, factor, turns
                factor *= number if node.op_type == "Mul" else 1 / number
            if node.op_type == "Transpose":
                # torch.onnx turns the last two axes of three, with all heads in the first one.
                if list(_attributes(node)["perm"]) not in ([0, 1, 3, 2], [0, 2, 1]):
                    return None, factor, turns
                turns += 1
            if node.op_type == "Reshape" and not self._keeps_last_two(node):
                return None, factor, turns
            if node.op_type == "Expand" and self.lengths.shapes[node.input[0]][2] != 1:
                return None, factor, turns
            name = node.input[0]
        return self.extended[name], factor, turns

    def _keeps_last_two(self, node: onnx.NodeProto) -> bool:
        before, after = (self.lengths.shapes[name] for name in (node.input[0], node.output[0]))
        return before[-2:] == after[-2:]

    def _weighted(self, name: str, has_sinks: bool) -> tuple[str, str] | None:
        """Return the values that a softmax is multiplied by, and the product with all heads."""
        while True:
            readers = [node for node in self.readers.get(name, []) if node.op_type != "IsNaN"]
            if len(readers) != 1:
                return None
            (node,) = readers
            if node.op_type == "MatMul" and node.input[0] == name and not has_sinks:
                result = self._heads_of(node.output[0])
                return None if result is None else (node.input[1], result)
            is_view = node.op_type == "Reshape" and self._keeps_last_two(node)
            if has_sinks and drops_last(node, self.lengths.shapes, self._array):
                has_sinks, is_view = False, True
            if node.op_type not in (*_TRANSPARENT, "Where") and not is_view:
                return None
            name = node.output[0]

    def _heads_of(self, name: str) -> str | None:
        """Return a value with all its heads, which may be a view of it."""
        if len(self.lengths.shapes[name]) == _RANK:
            return name
        readers = self.readers.get(name, [])
        is_view = len(readers) == 1 and readers[0].op_type == "Reshape"
        if is_view and self._keeps_last_two(readers[0]):
            return self._heads_of(readers[0].output[0])
        return None

    def _number(self, name: str) -> float | None:
        """Return a constant of one element."""
        array = self._array(name)
        if array is None or array.size != 1:
            return None
        number = float(np.asarray(array).reshape(()))
        return number if math.isfinite(number) and number else None

    def _array(self, name: str) -> NDArray[Any] | None:
        """Return a constant."""
        node = self.makers.get(name)
        if node is not None and node.op_type == "Constant":
            value: Any = _attributes(node).get("value")
            return None if value is None else onnx.numpy_helper.to_array(value)
        tensor = self.constants.get(name)
        return None if tensor is None else tensor_array(tensor, self.folder)


def _attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
