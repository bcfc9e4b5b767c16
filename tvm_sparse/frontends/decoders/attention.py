"""An attention with a cache as a file has it, and the node that takes its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import helper

from tvm_sparse.frontends.converters.cached import DOMAIN, OPERATOR

STATE = "tvm_sparse_state"
"""The name of the input that says at which position the tokens begin, and how many there are."""


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
    attributes : mapping
        What `converters.cached` reads, but for what is known of the caches.
    """

    node: str
    past: tuple[str, str]
    present: tuple[str, str]
    result: str
    rows: tuple[str, ...]
    tables: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def replacement(self, caches: Sequence[str]) -> onnx.NodeProto:
        """Return the node that takes the place of the attention."""
        rows = [*self.rows, "", ""][:3]
        inputs = [*rows, *caches, STATE, *self.tables]
        return helper.make_node(
            OPERATOR, inputs, [self.result], name=self.node, domain=DOMAIN, **self.attributes
        )
