"""Verify a decoder: the logits of a session are compared with those of ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_sparse.frontends.decoders.group_query import cache_shapes
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.onnx_runtime import exact_options, onnxruntime
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.verification.comparison import HALF_TOLERANCE, TOLERANCE, Difference, difference

_OF_8_BITS, _OF_FLOATS = 4, 1
"""Values of ``accuracy_level`` of a MatMulNBits: activations of int8, and of float32."""

INTEGER_CACHE_TOLERANCE = 5e-2
"""The difference that is allowed with caches of 8 bits, whose elements are off by up to 1/254 of
the largest of their head."""

ROUNDED_FACTOR = 2.0
"""A decoder that rounds activations to 8 bits may be this many times as far from floats as ONNX
Runtime is: it rounds them in other places."""

PROMPT, STEPS = 5, 3
"""Tokens that are compared: those of a prompt, and single ones behind it."""


class OnnxDecoder:
    """A sequence of tokens of a decoder in ONNX Runtime, without its optimizations.

    Parameters
    ----------
    model : onnx.ModelProto, str or PathLike
        The model, or its file; its caches are inputs of rank 4, and outputs called ``present...``.
    exact : bool
        Whether products that may round activations to 8 bits compute with floats instead.

    Attributes
    ----------
    rounds : bool
        Whether the model lets products round activations to 8 bits.
    past : dict of str to array
        The caches by the names of the inputs.
    position : int
        The tokens so far.
    """

    def __init__(
        self, model: onnx.ModelProto | str | os.PathLike[str], exact: bool = False
    ) -> None:
        options = exact_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        if isinstance(model, onnx.ModelProto):
            folder = Path()
        else:
            model, folder = read_model(model)
        levels = [
            attribute
            for node in model.graph.node
            for attribute in node.attribute
            if attribute.name == "accuracy_level"
        ]
        self.rounds = any(level.i == _OF_8_BITS for level in levels)
        for level in levels if exact else ():
            level.i = min(level.i, _OF_FLOATS)
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._types = {
            value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for value in model.graph.input
        }
        self._inputs = {value.name: value.shape for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]
        caches = [name for name, shape in self._inputs.items() if len(shape) == 4]
        presents = [name for name in self._outputs if name.startswith("present")]
        self._presents = dict(zip(caches, presents, strict=True))
        self._firsts, self._totals = _lengths(model.graph)
        self.position = 0
        shapes = cache_shapes(model.graph)
        self.past = {name: self._empty(name, shapes.get(name)) for name in caches}

    def _empty(self, name: str, shape: tuple[int, ...] | None) -> NDArray[np.generic]:
        """Return a cache without tokens; one that is written in place has a fixed size."""
        _, heads, room, channels = self._inputs[name]
        given = shape or (heads, room if isinstance(room, int) else 0, channels)
        return np.zeros((1, *given), self._types[name])

    def step(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Append tokens; return their logits ``(tokens, vocabulary)``."""
        total = self.position + len(ids)
        feeds = dict(self.past)
        for name in self._inputs.keys() - feeds.keys():
            values: NDArray[np.generic]
            if name in self._firsts:
                values = np.array([self.position])
            elif name in self._totals:
                values = np.array([total])
            elif "mask" in name:
                values = np.ones((1, total))
            elif "position" in name:
                values = np.arange(self.position, total)[None]
            else:
                values = np.array([ids])
            feeds[name] = values.astype(self._types[name])
        found = dict(zip(self._outputs, self._session.run(None, feeds), strict=True))
        self.position = total
        self.past = {name: found[present] for name, present in self._presents.items()}
        (logits,) = (found[name] for name in self._outputs if name not in self._presents.values())
        return np.asarray(logits[0].astype("float32"))


def _lengths(graph: onnx.GraphProto) -> tuple[set[str], set[str]]:
    """Return the inputs that say where new tokens begin, and how many tokens there are then."""
    scatters = [node for node in graph.node if node.op_type == "TensorScatter"]
    attentions = [node for node in graph.node if node.op_type == "Attention"]
    return (
        {name for node in scatters for name in node.input[2:3]},
        {name for node in attentions for name in node.input[6:7]},
    )


def compare_decoder(path: str | os.PathLike[str], engine: Engine) -> Difference:
    """Return how far the logits of a session are from those of ONNX Runtime.

    The tokens are random. A prompt is computed at once, and a few tokens one by one. If the model
    lets products round activations to 8 bits, all is compared with what floats make of it: the
    session may differ by `ROUNDED_FACTOR` times as much as ONNX Runtime itself.

    Parameters
    ----------
    path : str or PathLike
        The model that `engine` was compiled from.
    engine : Engine
        The compiled decoder.

    Raises
    ------
    Exception
        Whatever ONNX Runtime raises where it cannot run the model.
    """
    decoder = engine.info.decoder
    assert decoder is not None
    reference = OnnxDecoder(path)
    steps = STEPS if decoder.limit == 0 else min(STEPS, decoder.limit - 1)
    prompt = PROMPT if decoder.limit == 0 else min(PROMPT, decoder.limit - steps)
    session = engine.session(tokens=prompt + steps)
    ids = np.random.default_rng(0).integers(0, decoder.vocabulary, prompt + steps).tolist()
    chunks = [ids[:prompt], *([token] for token in ids[prompt:])]
    expected, actual = (
        np.concatenate([one.step(chunk) for chunk in chunks]) for one in (reference, session)
    )
    kept = {cache.dtype for cache in decoder.caches}
    tolerance = HALF_TOLERANCE if "float16" in kept else TOLERANCE
    if "int8" in kept:
        tolerance = INTEGER_CACHE_TOLERANCE
    if reference.rounds:
        rounded, floats = expected, OnnxDecoder(path, exact=True)
        expected = np.concatenate([floats.step(chunk) for chunk in chunks])
        tolerance = max(tolerance, ROUNDED_FACTOR * difference(expected, rounded))
    return Difference(engine.outputs[0].name, difference(expected, actual), tolerance)
