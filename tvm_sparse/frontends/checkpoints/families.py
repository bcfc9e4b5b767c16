"""The settings of networks of Hugging Face's transformers => the sizes of a decoder.

The formulas are those of transformers: its classes differ in norms, windows, rotation and scales.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvm_sparse.decoders import DecoderConfig, check_size
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.checkpoints.rotation import rotation_of

_SLIDING, _FULL = "sliding_attention", "full_attention"
_LOCAL_THETA = 10000.0
"""The base of Gemma 3's angles in layers with a window."""


@dataclass(frozen=True)
class Family:
    """What the settings of a class of transformers do not say.

    Attributes
    ----------
    is_gemma : bool
        Whether embeddings are scaled, weights of norms are stored less 1, and gates are GELUs.
    head_norms, result_norms : bool
        As in `DecoderConfig`.
    is_fused : bool
        Whether query, key and value are stored as one weight, and gate and up, too.
    head_size : int
        The channels of a head where the settings are silent; 0 for those of the hidden state.
    tied : bool
        Whether the head is the table of embeddings where the settings are silent.
    asks_for_window : bool
        Whether ``use_sliding_window`` must say that there is one.
    experts : tuple of str
        What the files call the mixture of a layer, and in it gate, up and down of an expert.
    every : int
        Of so many layers the last one has no window; 0 if the settings say which.
    """

    is_gemma: bool = False
    head_norms: bool = False
    result_norms: bool = False
    is_fused: bool = False
    head_size: int = 0
    tied: bool = False
    asks_for_window: bool = False
    experts: tuple[str, str, str, str] = ("block_sparse_moe", "w1", "w3", "w2")
    every: int = 0


_GEMMA = Family(is_gemma=True, head_size=256, tied=True)
FAMILIES = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(),
    "MixtralForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(asks_for_window=True),
    "Qwen3ForCausalLM": Family(asks_for_window=True, head_norms=True, head_size=128),
    "Qwen3MoeForCausalLM": Family(
        asks_for_window=True,
        head_norms=True,
        head_size=128,
        experts=("mlp", "gate_proj", "up_proj", "down_proj"),
    ),
    "Phi3ForCausalLM": Family(is_fused=True),
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": replace(_GEMMA, result_norms=True, every=2),
    "Gemma3ForCausalLM": replace(_GEMMA, result_norms=True, head_norms=True, every=6),
}
"""The classes whose weights can be read."""

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def sizes_of(settings: Mapping[str, Any], folder: Path) -> tuple[Family, DecoderConfig]:
    """Return the family of a network, and its sizes.

    Raises
    ------
    ModelError
        If it has something that cannot be read.
    """
    architectures = settings.get("architectures") or ["none"]
    family = FAMILIES.get(architectures[0])
    if family is None:
        raise ModelError(
            f"{folder}: the architecture {architectures[0]!r} cannot be read; those that can are "
            f"{', '.join(FAMILIES)}"
        )
    if settings.get("use_bidirectional_attention"):
        raise ModelError(f"{folder}: a network whose tokens see later ones is no decoder")
    heads, hidden = int(settings["num_attention_heads"]), int(settings["hidden_size"])
    layers = check_size("layers", int(settings["num_hidden_layers"]))
    head_size = int(settings.get("head_dim") or family.head_size or hidden // heads)
    check_size("head_size", head_size)
    windows = _windows(settings, family, layers, folder)
    rotation = rotation_of(_of_full_layers(settings), settings, head_size, folder)
    local = None
    if architectures[0] == "Gemma3ForCausalLM":
        local = rotation_of(_of_sliding_layers(settings), {}, head_size, folder).frequencies
    experts = int(settings.get("num_local_experts") or settings.get("num_experts") or 0)
    if experts:
        _check_experts(settings, folder)
    scale = float(settings.get("query_pre_attn_scalar") or 0)
    return family, DecoderConfig(
        layers=layers,
        hidden=hidden,
        intermediate=int(settings.get("moe_intermediate_size") or settings["intermediate_size"]),
        heads=heads,
        kv_heads=int(settings.get("num_key_value_heads") or heads),
        head_size=head_size,
        vocabulary=int(settings["vocab_size"]),
        rope_theta=rotation.theta,
        norm_epsilon=float(settings.get("rms_norm_eps", 1e-6)),
        context=rotation.context or int(settings.get("max_position_embeddings", 2048)),
        tied=bool(settings.get("tie_word_embeddings", family.tied)),
        window=windows[0] if len({*windows}) == 1 else 0,
        windows=windows if len({*windows}) > 1 else (),
        frequencies=rotation.frequencies,
        local_frequencies=local,
        rotary_scale=rotation.scale,
        experts=experts,
        active_experts=int(settings.get("num_experts_per_tok") or 2),
        head_norms=family.head_norms,
        result_norms=family.result_norms,
        embedding_scale=math.sqrt(hidden) if family.is_gemma else 1.0,
        activation=_activation(settings, family, folder),
        attention_scale=scale**-0.5 if scale else 0.0,
        softcap=float(settings.get("attn_logit_softcapping") or 0),
        logit_softcap=float(settings.get("final_logit_softcapping") or 0),
    )


def _check_experts(settings: Mapping[str, Any], folder: Path) -> None:
    """Refuse layers without experts, and shares that do not add up to 1."""
    if int(settings.get("decoder_sparse_step") or 1) != 1 or settings.get("mlp_only_layers"):
        raise ModelError(f"{folder}: layers with and without experts cannot be read")
    if not settings.get("norm_topk_prob", True):
        raise ModelError(f"{folder}: shares of experts that do not add up to 1 cannot be read")


def _activation(settings: Mapping[str, Any], family: Family, folder: Path) -> str:
    name = settings.get("hidden_activation") or settings.get("hidden_act", "silu")
    if family.is_gemma and name == "gelu":
        # What the first files of Gemma say; transformers computes the other one.
        name = "gelu_pytorch_tanh"
    if name not in _ACTIVATIONS:
        raise ModelError(f"{folder}: the activation {name!r} cannot be read")
    return _ACTIVATIONS[name]


def _of_full_layers(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the settings say of the rotation in layers without a window."""
    # transformers 5 has everything about rotation in one entry, or in one for each kind of layer.
    rotation = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    return dict(rotation.get(_FULL) or rotation)


def _of_sliding_layers(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    rotation = (settings.get("rope_parameters") or {}).get(_SLIDING) or {}
    theta = settings.get("rope_local_base_freq") or _LOCAL_THETA
    return {"rope_theta": theta, **rotation, "is_needed": True}


def _windows(
    settings: Mapping[str, Any], family: Family, layers: int, folder: Path
) -> tuple[int, ...]:
    """Return for each layer how many positions a token attends to, 0 if all."""
    window = int(settings.get("sliding_window") or 0)
    if family.asks_for_window and not settings.get("use_sliding_window", False):
        window = 0
    kinds = settings.get("layer_types")
    if kinds is None:
        first = int(settings.get("max_window_layers", 0)) if family.asks_for_window else 0
        every = int(settings.get("sliding_window_pattern") or family.every)
        kinds = [
            _FULL if i < first or (every and i % every == every - 1) else _SLIDING
            for i in range(layers)
        ]
    if unknown := sorted({*map(str, kinds)} - {_SLIDING, _FULL}):
        raise ModelError(f"{folder}: layers of the kind {unknown[0]!r} cannot be read")
    return tuple(window if kind == _SLIDING else 0 for kind in kinds)
