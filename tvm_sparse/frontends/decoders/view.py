"""A decoder in the form in which its attentions are found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from tvm_sparse.frontends.decoders import group_query, standard, written_out
from tvm_sparse.frontends.decoders.attention import FoundAttention, Lengths
from tvm_sparse.frontends.decoders.lengths import at_lengths
from tvm_sparse.frontends.decoders.long_tables import with_short_tables
from tvm_sparse.frontends.decoders.rewriting import rewrite
from tvm_sparse.frontends.decoders.tokens import possible_tokens
from tvm_sparse.frontends.value_types import value_types

OF_ANY_LENGTH = (group_query,)
"""The forms of attention with a cache that are found in a file as it is."""
AT_LENGTHS = (standard, written_out)
"""Those that are found where the numbers of new and past tokens are fixed. All of both kinds have
`is_form` and `find`."""


def is_form(graph: onnx.GraphProto) -> bool:
    """Return whether a graph is a decoder, whose attentions have a form that is known.

    Without tokens, keys and values of earlier steps are ordinary inputs and outputs, as those of
    networks that listen to a stream.
    """
    if any(form.is_form(graph) for form in OF_ANY_LENGTH):
        return True
    return bool(possible_tokens(graph)) and any(form.is_form(graph) for form in AT_LENGTHS)


@dataclass(frozen=True)
class View:
    """A decoder and its attentions.

    Attributes
    ----------
    model : onnx.ModelProto
        The decoder.
    folder : Path
        The folder that the locations of its external weights are relative to.
    attentions : tuple of FoundAttention
        Its attentions.
    is_at_lengths : bool
        Whether the model was simplified for numbers of new and past tokens.
    """

    model: onnx.ModelProto
    folder: Path
    attentions: tuple[FoundAttention, ...]
    is_at_lengths: bool

    def rewritten(self, ids: str, rows: int, last_only: bool) -> onnx.ModelProto:
        """Return the model of a call, as `tvm_sparse.frontends.decoders.rewriting.rewrite` does."""
        return rewrite(self.model, self.attentions, ids, rows, last_only)


def view_at(
    model: onnx.ModelProto, folder: Path, scratch: Path, rows: int, past: int, cache: str
) -> View:
    """Return a decoder in the form in which its attentions are found.

    Parameters
    ----------
    model : onnx.ModelProto
        The decoder.
    folder, scratch : Path
        The folder of its external weights, and one for those of a simplified model.
    rows, past : int
        The numbers of new and past tokens, if they are fixed.
    cache : str
        The type of the elements of caches; that of the file if it is empty.

    Raises
    ------
    ModelError
        If an attention has something that is not supported.
    """
    for form in OF_ANY_LENGTH:
        if form.is_form(model.graph):
            model = with_short_tables(model, folder)
            return View(model, folder, _with(form.find(model), cache), False)
    (found, *_) = (form for form in AT_LENGTHS if form.is_form(model.graph))
    simple = at_lengths(model, folder, scratch, rows, past)
    shapes = {
        name: kind.shape
        for name, kind in value_types(simple, scratch).items()
        if kind.shape is not None
    }
    attentions = found.find(simple, scratch, Lengths(rows, past, shapes))
    return View(simple, scratch, _with(attentions, cache), True)


def _with(attentions: Iterable[FoundAttention], cache: str) -> tuple[FoundAttention, ...]:
    return tuple(replace(attention, cache=cache) for attention in attentions)
