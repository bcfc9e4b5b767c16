"""An attention with a cache as a file has it, and the node that takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_sparse.frontends.converters.cached import DOMAIN, OPERATOR

STATE = "tvm_sparse_state"
"""The name of the input that says which sequences and positions the tokens of a call have."""


@dataclass(frozen=True)
class Lengths:
    """The lengths at which a decoder is looked at.

    Attributes
    ----------
    rows, past : int
        New tokens and past ones.
    shapes : mapping of str to tuple of int
        The shapes of values.
    """

    rows: int
    past: int
    shapes: Mapping[str, tuple[int, ...]]

    def heads(self, name: str) -> int:
        """Return the heads of a value ``(1, heads, tokens, head_dim)``."""
        return self.shapes[name][1]


@dataclass(frozen=True)
class FoundAttention:
    """An attention whose keys and values come from inputs of the graph and go to outputs.

    Attributes
    ----------
    node : str
        The name of the node, for messages.
    past, present : tuple of str
        The inputs that hold the keys and values of past tokens, and the outputs with all of them.
    result : str
        The value that the attention computes, ``(1, tokens, heads * head_dim)``.
    rows : tuple of str
        The queries, keys and values of the new tokens, or the one value that holds all of them.
    tables : tuple of str
        The cosines and sines of the angles by which queries and keys are to be rotated, if any.
    sinks : str
        For each head of queries the score of a position that has no value, if any: a value of the
        graph.
    own_sinks : tuple of float
        The same as numbers.
    slopes : tuple of float
        For each head of queries what its scores grow by from position to position, if they do.
    head_dim : int
        The channels of a head, 0 if only the cache says.
    heads_first : bool
        Whether rows and result have the shape ``(1, heads, tokens, head_dim)``.
    attributes : mapping
        What `converters.cached` reads, but for what is known of the caches.
    cache : str
        The type of the elements of the cache; that of the file if it is empty.
    """

    node: str
    past: tuple[str, str]
    present: tuple[str, str]
    result: str
    rows: tuple[str, ...]
    tables: tuple[str, ...] = ()
    sinks: str = ""
    own_sinks: tuple[float, ...] = ()
    slopes: tuple[float, ...] = ()
    head_dim: int = 0
    heads_first: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    cache: str = ""

    def replacement(self, places: str) -> list[onnx.NodeProto]:
        """Return the nodes that take the place of the attention.

        Parameters
        ----------
        places : str
            The value with the addresses of its caches.
        """
        rows = [*self.rows, "", ""][:3]
        before: list[onnx.NodeProto] = []
        result = self.result
        if self.heads_first:
            for i, name in enumerate(rows):
                turned, rows[i] = f"{self.result}_turned{i}", f"{self.result}_rows{i}"
                before.append(_turn(name, turned))
                before.append(_reshape(turned, rows[i], _ROWS))
            result = f"{self.result}_rows"
        slopes = f"{self.result}{_SLOPES}" if self.slopes else ""
        sinks = f"{self.result}{_SINKS}" if self.own_sinks else self.sinks
        inputs = [*rows, *(self.tables or ("", "")), sinks, slopes, places, STATE]
        attend = helper.make_node(
            OPERATOR, inputs, [result], name=self.node, domain=DOMAIN, **self.attributes
        )
        if not self.heads_first:
            return [attend]
        split = f"{self.result}_split"
        heads = f"{_HEADS}{self.attributes['num_heads']}"
        return [*before, attend, _reshape(result, split, heads), _turn(split, self.result)]

    def constants(self) -> dict[str, NDArray[np.generic]]:
        """Return what nodes of `replacement` read, by the names of the constants."""
        found: dict[str, NDArray[np.generic]] = {}
        if self.slopes:
            found[f"{self.result}{_SLOPES}"] = np.array(self.slopes, np.float32)
        if self.own_sinks:
            found[f"{self.result}{_SINKS}"] = np.array(self.own_sinks, np.float32)
        if self.heads_first:
            heads = int(self.attributes["num_heads"])
            found[_ROWS] = np.array([0, 0, -1])
            found[f"{_HEADS}{heads}"] = np.array([0, 0, heads, -1])
        return found


_SLOPES, _SINKS = "_slopes", "_sinks"
_ROWS, _HEADS = "tvm_sparse_rows", "tvm_sparse_heads"


def _turn(name: str, output: str) -> onnx.NodeProto:
    """Swap heads and tokens."""
    return helper.make_node("Transpose", [name], [output], name=output, perm=[0, 2, 1, 3])


def _reshape(name: str, output: str, shape: str) -> onnx.NodeProto:
    return helper.make_node("Reshape", [name, shape], [output], name=output)
