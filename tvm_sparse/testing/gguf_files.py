"""Writes GGUF files as llama.cpp's converter does, from seeded weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders import DecoderConfig, QuantizedRows, parameter_names
from tvm_sparse.decoders.parameters import ROUTER, Parameter, Parameters, expert_names, layer

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    ROUTER: "ffn_gate_inp",
}

_STACKS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


def write_gguf(
    path: Path,
    config: DecoderConfig,
    parameters: Parameters,
    kind: str = "Q4_0",
    architecture: str = "llama",
    more: Iterable[tuple[str, NDArray]] = (),
    fields: Mapping[str, int] | None = None,
) -> Path:
    """Write a model without a tokenizer; the package `gguf` must be installed.

    Parameters
    ----------
    path : Path
        The file to write.
    config, parameters
        As for `tvm_sparse.decoders.decoder_model`.
    kind : str
        The type of matrices, by ggml's name.
    architecture : str
        ``"llama"``, whose pairs of rotated rows stand beside each other, or another name.
    more : iterable of (str, array)
        Other tensors.
    fields : mapping of str to int, optional
        Other fields, without the name of the architecture.
    """
    gguf = importlib.import_module("gguf")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    if config.experts:
        writer.add_expert_count(config.experts)
        writer.add_expert_used_count(config.active_experts)
    writer.add_vocab_size(config.vocabulary)
    writer.add_tokenizer_model("none")
    for name, field in (fields or {}).items():
        writer.add_uint32(f"{architecture}.{name}", field)
    type_ = gguf.GGMLQuantizationType[kind]
    for name in sorted(parameter_names(config)):
        value = parameters(name)
        if value is None or ".experts." in name:
            continue
        dense = _dense(value)
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.heads if "q_proj" in name else config.kv_heads
            dense = _pairs_side_by_side(dense, heads)
        if dense.ndim == 1 or ROUTER in name:
            writer.add_tensor(_gguf_name(name), np.ascontiguousarray(dense))
        else:
            writer.add_tensor(_gguf_name(name), gguf.quantize(dense, type_), raw_dtype=type_)
    for index in range(config.layers if config.experts else 0):
        for part, stack in enumerate(_STACKS):
            names = (
                f"{layer(index)}{expert_names(expert)[part]}.weight"
                for expert in range(config.experts)
            )
            experts = np.stack([_dense(parameters(name)) for name in names])
            data = gguf.quantize(experts, type_)
            writer.add_tensor(f"blk.{index}.{stack}.weight", data, raw_dtype=type_)
    for name, tensor in more:
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _dense(value: Parameter | None) -> NDArray:
    assert value is not None
    return value.dense() if isinstance(value, QuantizedRows) else value


def _pairs_side_by_side(rows: NDArray, heads: int) -> NDArray:
    """Return the rows of heads with the two of a rotated pair beside each other."""
    pairs = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _gguf_name(name: str) -> str:
    """Return GGUF's name for Hugging Face's."""
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{_NAMES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[part]}.{kind}"
