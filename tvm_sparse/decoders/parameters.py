"""The parameters of a decoder: their names, by Hugging Face's words, and their shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders.config import DecoderConfig
from tvm_sparse.decoders.quantized_rows import QuantizedRows

Parameter: TypeAlias = NDArray[np.floating] | QuantizedRows
"""A parameter, outputs first: floats, or a matrix that is quantized already."""

Parameters: TypeAlias = Callable[[str], Parameter | None]
"""Returns the parameter of a name. None says that the network has no such bias.

It is asked for one parameter at a time, so that a model need not fit into memory as floats.
"""

EMBEDDINGS = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
LAST_NORM = "model.norm.weight"


def layer(index: int) -> str:
    """Return how the names of a layer's parameters begin."""
    return f"model.layers.{index}."


def parameter_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter that is not a bias, by name, in the network's order."""
    hidden, wide = config.hidden, config.intermediate
    shapes: dict[str, tuple[int, ...]] = {EMBEDDINGS: (config.vocabulary, hidden)}
    for index in range(config.layers):
        parts: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (config.query_width, hidden),
            "self_attn.k_proj": (config.kv_width, hidden),
            "self_attn.v_proj": (config.kv_width, hidden),
            "self_attn.o_proj": (hidden, config.query_width),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }
        shapes |= {f"{layer(index)}{part}.weight": shape for part, shape in parts.items()}
    shapes[LAST_NORM] = (hidden,)
    if not config.tied:
        shapes[HEAD] = (config.vocabulary, hidden)
    return shapes


def parameter_names(config: DecoderConfig) -> set[str]:
    """Return the names of all parameters that the network may have, biases included."""
    weights = set(parameter_shapes(config)) | {HEAD}
    biases = {name.removesuffix("weight") + "bias" for name in weights if "_proj." in name}
    return weights | biases
