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
from onnx import helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.decoders.attention import FoundAttention, Lengths
from tvm_sparse.frontends.decoders.masks import window_of
from tvm_sparse.frontends.onnx_file import tensor_array

_TRANSPARENT = {"Cast", "Identity", "Dropout"}
_COPYING = ("Cast", "Identity")
_REPEATING = {*_TRANSPARENT, "Expand", "Reshape", "Transpose", "Unsqueeze", "Mul", "Div"}


def is_form(graph: onnx.GraphProto) -> bool:
    """Return whether a graph has caches that are extended by Concat, and that a softmax reads."""
    dependent = set(_extended(graph))
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
    if others := {one.present for one in _extended(model.graph).values()} - used:
        raise ModelError(
            f"the cache {sorted(others)[0]!r} belongs to no attention of a form that is known: a "
            "softmax of scaled, perhaps softly limited and masked products of queries and keys, "
            "times the values (biases of scores, such as ALiBi, and sinks are not supported)"
        )
    yield from attentions


@dataclass(frozen=True)
class _Extended:
    """A cache with the new tokens: the node that extends it, and the output of the graph."""

    node: onnx.NodeProto
    present: str


def _extended(graph: onnx.GraphProto) -> dict[str, _Extended]:
    """Return the extended caches by the values that hold them."""
    given = {value.name for value in graph.input}
    inputs = {value.name for value in graph.input if len(value.type.tensor_type.shape.dim) == 4}
    outputs = {value.name for value in graph.output}
    copies = {node.input[0]: node.output[0] for node in graph.node if node.op_type in _COPYING}
    found: dict[str, _Extended] = {}
    for node in graph.node:
        if (
            node.op_type == "Concat"
            and len(node.input) == 2
            and node.input[0] in inputs
            and node.input[1] not in given
            and _attributes(node)["axis"] in (2, -2)
        ):
            names = node.output[0], copies.get(node.output[0], "")
            present = next((name for name in names if name in outputs), "")
            if present:
                found |= {name: _Extended(node, present) for name in names if name}
    return found


@dataclass
class _Scores:
    """What stands between the product of queries and keys, and the softmax.

    With a soft cap, they are ``softcap * tanh(factor * product)``.
    """

    product: onnx.NodeProto
    factor: float = 1.0
    softcap: float = 0.0
    masks: list[str] = field(default_factory=list)


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
        self.extended = _extended(model.graph)
        self.windows: dict[tuple[str, ...], int] = {}

    def attention(self, softmax: onnx.NodeProto) -> FoundAttention | None:
        """Return the attention that a softmax belongs to, None if it belongs to none."""
        scores = self._scores(softmax.input[0])
        if scores is None:
            return None
        query, factor = self._scaled(scores.product.input[0])
        keys, key_factor, key_turns = self._cache(scores.product.input[1])
        result = self._weighted(softmax.output[0])
        if keys is None or result is None:
            return None
        values, value_factor, value_turns = self._cache(result.input[1])
        where = f"the attention of {softmax.name!r} (Softmax)"
        if values is None or key_turns != 1 or value_turns or value_factor != 1.0:
            raise ModelError(f"{where} is computed in a form that is not known")
        heads = self.lengths.heads(scores.product.output[0])
        kv_heads = self.lengths.heads(keys.node.input[0])
        scale = scores.factor * factor * key_factor * (scores.softcap or 1.0)
        if not scores.masks:
            raise ModelError(f"{where} has no mask: the tokens of a prompt see later ones")
        return FoundAttention(
            node=softmax.name,
            past=(keys.node.input[0], values.node.input[0]),
            present=(keys.present, values.present),
            result=result.output[0],
            rows=(query, keys.node.input[1], values.node.input[1]),
            heads_first=True,
            attributes={
                "num_heads": heads,
                "kv_num_heads": kv_heads,
                "scale": scale,
                "softcap": scores.softcap,
                "window": self._window(tuple(scores.masks)),
            },
        )

    def _window(self, masks: tuple[str, ...]) -> int:
        if masks not in self.windows:
            rows, past = self.lengths.rows, self.lengths.past
            self.windows[masks] = window_of(self.model, self.folder, masks, rows, past, False)
        return self.windows[masks]

    def _scores(self, name: str) -> _Scores | None:
        """Read from the input of a softmax up to a product, None if there is none."""
        node = self.makers.get(name)
        if node is None:
            return None
        if node.op_type == "MatMul":
            return _Scores(node)
        if node.op_type in _TRANSPARENT:
            return self._scores(node.input[0])
        if node.op_type in ("Mul", "Div"):
            scores, factor = self._scores(node.input[0]), self._number(node.input[1])
            if scores is None or factor is None:
                return None
            factor = factor if node.op_type == "Mul" else 1 / factor
            if scores.softcap:
                scores.softcap *= factor
            else:
                scores.factor *= factor
            return scores
        if node.op_type == "Tanh":
            scores = self._scores(node.input[0])
            if scores is not None:
                scores.softcap = 1.0
            return scores
        if node.op_type in ("Add", "Where"):
            for name, mask in self._masked(node):
                scores = self._scores(name)
                if scores is not None:
                    scores.masks.append(mask)
                    return scores
        return None

    def _masked(self, node: onnx.NodeProto) -> list[tuple[str, str]]:
        if node.op_type == "Where":
            return [(node.input[1], node.input[0])]
        a, b = node.input
        return [(a, b), (b, a)]

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

    def _cache(self, name: str) -> tuple[_Extended | None, float, int]:
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

    def _weighted(self, name: str) -> onnx.NodeProto | None:
        """Return the product of a softmax and the values."""
        while True:
            readers = [node for node in self.readers.get(name, []) if node.op_type != "IsNaN"]
            if len(readers) != 1:
                return None
            (node,) = readers
            if node.op_type == "MatMul" and node.input[0] == name:
                return node
            if node.op_type not in (*_TRANSPARENT, "Where"):
                return None
            name = node.output[0]

    def _number(self, name: str) -> float | None:
        """Return a constant of one element."""
        node = self.makers.get(name)
        if node is not None and node.op_type == "Constant":
            value: Any = _attributes(node).get("value")
            array = None if value is None else onnx.numpy_helper.to_array(value)
        else:
            tensor = self.constants.get(name)
            array = None if tensor is None else tensor_array(tensor, self.folder)
        if array is None or array.size != 1:
            return None
        number = float(np.asarray(array).reshape(()))
        return number if math.isfinite(number) and number else None


def _attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
