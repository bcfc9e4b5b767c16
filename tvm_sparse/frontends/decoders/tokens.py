"""The input of a decoder that holds its tokens."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from tvm_sparse.errors import ModelError


def possible_tokens(graph: onnx.GraphProto) -> list[str]:
    """Return the inputs that may hold tokens: integers (batch, tokens)."""
    return [
        value.name
        for value in graph.input
        if value.type.tensor_type.elem_type in (TensorProto.INT64, TensorProto.INT32)
        and len(value.type.tensor_type.shape.dim) == 2
        and not any(text in value.name for text in ("mask", "position"))
    ]


def tokens_of(graph: onnx.GraphProto) -> str:
    """Return the input that holds the tokens.

    Raises
    ------
    ModelError
        If there is none.
    """
    integers = possible_tokens(graph)
    if "input_ids" in integers:
        return "input_ids"
    if len(integers) != 1:
        raise ModelError(
            "a decoder must have an input 'input_ids' of tokens, int64 (batch, tokens); models "
            "that take embeddings are not supported"
        )
    return integers[0]
