"""An ONNX file of a decoder => one module for each number of tokens of a call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import tvm
from onnx import TensorProto

from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.errors import ModelError, border
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.canonical import canonical
from tvm_sparse.frontends.canonical.expert_mixtures import gather_experts
from tvm_sparse.frontends.decoders.lengths import TooLong, check_independent, pasts_of
from tvm_sparse.frontends.decoders.positions import with_positions
from tvm_sparse.frontends.decoders.rewriting import cache_of, logits_of, table_rows
from tvm_sparse.frontends.decoders.tokens import tokens_of
from tvm_sparse.frontends.decoders.view import View, is_form, view_at
from tvm_sparse.frontends.graph_importer import GraphImporter, NotConverted, no_converter
from tvm_sparse.frontends.nodes import qualified
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.frontends.onnx_layers import file_layers
from tvm_sparse.layer_report import FILE_LAYERS
from tvm_sparse.sizes.decoder import ROWS, Decoder, function_name
from tvm_sparse.specs import CacheOption, TensorSpec


def is_decoder(path: str | os.PathLike[str]) -> bool:
    """Return whether an ONNX file is a decoder of a form that is known.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    model, _ = read_model(path)
    return is_form(model.graph)


@dataclass(frozen=True)
class DecoderFile:
    """A decoder that was read.

    Attributes
    ----------
    path : Path
        The file, for messages.
    model : onnx.ModelProto
        What it holds.
    folder : Path
        The folder that the locations of external weights are relative to.
    ids : str
        The input that holds the tokens.
    logits : str
        The output that is no cache.
    decoder : Decoder
        What a session must know.
    cache : str
        The type of the elements of caches; that of the file if it is empty.
    past : int
        The past tokens at which the model is looked at, if it is at fixed lengths.
    """

    path: Path
    model: onnx.ModelProto
    folder: Path
    ids: str
    logits: str
    decoder: Decoder
    cache: str
    past: int

    @classmethod
    def read(cls, path: str | os.PathLike[str], cache: CacheOption = "auto") -> DecoderFile:
        """Read a decoder.

        Parameters
        ----------
        path : str or PathLike
            The file.
        cache : str
            The type of the elements of caches. ``"auto"`` is float16 for a model whose weights have
            few bits, and otherwise the type that the file gives.

        Raises
        ------
        ModelError
            If the file cannot be read, or has something that is not supported.
        """
        path = Path(path)
        model, folder = read_model(path)
        with border(ModelError, f"{path}: the decoder cannot be imported"), scratch_folder() as at:
            ids = tokens_of(model.graph)
            model = with_positions(model, folder, ids)
            kind = _cache_type(model.graph, cache)
            past, other_past, view = _longest_view(model, folder, at, kind)
            one = view.rewritten(ids, ROWS[0], False)
            limit = table_rows(one)
            if view.is_at_lengths:
                with scratch_folder() as beside:
                    other = view_at(model, folder, beside, ROWS[0], other_past, kind)
                    check_independent(
                        one, other.rewritten(ids, ROWS[0], False), (view.folder, other.folder)
                    )
                limit = min(limit or past + ROWS[-1], past + ROWS[-1])
            types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
            logits = logits_of(model.graph, view.attentions)
            decoder = Decoder(
                vocabulary=_last_extent(model.graph, logits),
                caches=tuple(cache_of(view.model.graph, one) for one in view.attentions),
                ids="int32" if types[ids] == TensorProto.INT32 else "int64",
                limit=limit,
            )
            return cls(path, model, folder, ids, logits, decoder, kind, past)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that a caller of a session gives."""
        return (TensorSpec(self.ids, (1, "tokens"), self.decoder.ids),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs that a caller of a session gets."""
        return (TensorSpec(self.logits, (1, "tokens", self.decoder.vocabulary), "float32"),)

    def modules(self) -> Iterator[tuple[str, tvm.IRModule]]:
        """Yield the functions of the decoder by name, each as ``main`` of a module.

        Raises
        ------
        ModelError
            If a node cannot be imported.
        """
        weights: dict[str, Any] = dict.fromkeys(t.name for t in self.model.graph.initializer)
        for rows in self.decoder.rows:
            with scratch_folder() as scratch:
                for last_only in (False, True) if rows > 1 else (False,):
                    with border(ModelError, f"{self.path}: the decoder cannot be imported"):
                        view = view_at(
                            self.model, self.folder, scratch, rows, self.past, self.cache
                        )
                        mod = self._module(view, rows, last_only, weights)
                    yield function_name(rows, last_only), mod

    @one_at_a_time
    def _module(
        self, view: View, rows: int, last_only: bool, weights: dict[str, Any]
    ) -> tvm.IRModule:
        model = view.rewritten(self.ids, rows, last_only)
        model = canonical(model, view.folder, lambda node: not no_converter(node))
        model = gather_experts(model, view.folder)
        layers = [layer.to_json() for layer in file_layers(model, view.folder)]
        try:
            mod = GraphImporter(view.folder, lambda: None, {}, weights=weights).convert(model)
        except NotConverted as error:
            nodes = [model.graph.node[position] for position in sorted(error.reasons)]
            first, more = nodes[0], f" (and {len(nodes) - 1} more)" if len(nodes) > 1 else ""
            raise ModelError(
                f"node {first.name!r} ({qualified(first)}){more} cannot be compiled: "
                f"{error.reasons[min(error.reasons)]}; ONNX Runtime does not run nodes of decoders"
            ) from error
        return mod.with_attr(FILE_LAYERS, layers)


def _longest_view(
    model: onnx.ModelProto, folder: Path, scratch: Path, kind: str
) -> tuple[int, int, View]:
    """Return the numbers of past tokens at which a decoder can be looked at, and how it is there.

    Raises
    ------
    ModelError
        If there are none, or the decoder has something that is not supported.
    """
    first: TooLong | None = None
    for past, other in pasts_of(model):
        try:
            return past, other, view_at(model, folder, scratch, ROWS[0], past, kind)
        except TooLong as error:
            first = first or error
    assert first is not None
    raise first


def _cache_type(graph: onnx.GraphProto, cache: CacheOption) -> str:
    if cache != "auto":
        return cache
    has_few_bits = any(node.op_type in ("MatMulNBits", "QMoE") for node in graph.node)
    return "float16" if has_few_bits else ""


def _last_extent(graph: onnx.GraphProto, name: str) -> int:
    """Return the last extent of an output.

    Raises
    ------
    ModelError
        If the file does not say it.
    """
    (value,) = (value for value in graph.output if value.name == name)
    dims = value.type.tensor_type.shape.dim
    if not dims or not dims[-1].dim_value:
        raise ModelError(f"the output {name!r} must have a known last dimension, the vocabulary")
    return int(dims[-1].dim_value)
