"""The parameters of a decoder: their names, by Hugging Face's words, and their shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders.config import DecoderConfig
from tvm_sparse.decoders.quantized_rows import QuantizedRows
from tvm_sparse.errors import ModelError

Parameter: TypeAlias = NDArray[np.floating] | QuantizedRows
"""A parameter, outputs first: floats, or a matrix that is quantized already."""

Parameters: TypeAlias = Callable[[str], Parameter | None]
"""Returns the parameter of a name. None says that the network has no such bias.

It is asked for one parameter at a time, so that a model need not fit into memory as floats.
"""

EMBEDDINGS = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
LAST_NORM = "model.norm.weight"
BEFORE_GATED, BEHIND_GATED = "pre_feedforward_layernorm", "post_feedforward_layernorm"
"""How Gemma 2 calls the norms around a gated layer. The norm behind attention has the name of the
one that stands before the gated layer in other networks."""


def layer(index: int) -> str:
    """Return how the names of a layer's parameters begin."""
    return f"model.layers.{index}."


ROUTER = "block_sparse_moe.gate"
"""How Mixtral calls the layer that chooses experts."""


def expert_names(expert: int) -> tuple[str, str, str]:
    """Return the names of gate, up and down of an expert in a layer, as in Mixtral."""
    gate, down, up = (f"block_sparse_moe.experts.{expert}.w{index}" for index in (1, 2, 3))
    return gate, up, down


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
        }
        if config.head_norms:
            parts |= dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), (config.head_size,))
        if config.result_norms:
            parts |= dict.fromkeys((BEFORE_GATED, BEHIND_GATED), (hidden,))
        if config.experts:
            parts[ROUTER] = (config.experts, hidden)
            for expert in range(config.experts):
                names = expert_names(expert)
                parts |= zip(names, ((wide, hidden), (wide, hidden), (hidden, wide)), strict=True)
        else:
            parts |= {
                "mlp.gate_proj": (wide, hidden),
                "mlp.up_proj": (wide, hidden),
                "mlp.down_proj": (hidden, wide),
            }
        shapes |= {f"{layer(index)}{part}.weight": shape for part, shape in parts.items()}
    shapes[LAST_NORM] = (hidden,)
    if not config.tied:
        shapes[HEAD] = (config.vocabulary, hidden)
    return shapes


def checked(config: DecoderConfig, parameters: Parameters) -> Parameters:
    """Return `parameters` with a check of the shape of each.

    Raises
    ------
    ModelError
        By what is returned, if a parameter is missing or has another shape.
    """
    shapes = parameter_shapes(config)
    head = shapes[EMBEDDINGS]

    def found(name: str) -> Parameter | None:
        value = parameters(name)
        if value is None and name in shapes:
            raise ModelError(f"the model has no parameter {name!r}")
        if value is not None:
            weight = name.replace(".bias", ".weight")
            wanted = head if name == HEAD else shapes[weight][: 1 if weight != name else None]
            if tuple(value.shape) != wanted:
                raise ModelError(f"parameter {name!r} is {tuple(value.shape)}, not {wanted}")
        return value

    return found


def parameter_names(config: DecoderConfig) -> set[str]:
    """Return the names of all parameters that the network may have, biases included."""
    weights = set(parameter_shapes(config)) | {HEAD}
    biases = {name.removesuffix("weight") + "bias" for name in weights if "_proj." in name}
    return weights | biases
