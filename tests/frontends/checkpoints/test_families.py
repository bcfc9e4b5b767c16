"""Networks of transformers beside Llama: settings, names and formulas."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import tvm_sparse
from tvm_sparse.decoders import parameter_names
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.checkpoints import as_onnx, open_checkpoint
from tvm_sparse.testing.decoders import ReferenceDecoder
from tvm_sparse.verification.decoder import OnnxDecoder
from tvm_sparse.zoo.decoders import LLAMA_TINY, MIXTRAL_TINY, RandomDecoder

numpy_files = pytest.importorskip("safetensors.numpy")

IDS = [3, 200, 7, 7, 91, 12, 5]


def frequencies(theta):
    return theta ** -(np.arange(8) / 8)


PLAIN = tuple(frequencies(1e4).tolist())
SHORT = np.linspace(1, 2, 8)
GEMMA = replace(
    LLAMA_TINY, tied=True, norm_epsilon=1e-6, activation="gelu_tanh", embedding_scale=8.0
)
GEMMA_2 = replace(
    GEMMA, result_norms=True, windows=(3, 0), attention_scale=12**-0.5, softcap=2.0,
    logit_softcap=3.0,
)  # fmt: skip
GEMMA_3 = replace(GEMMA, result_norms=True, head_norms=True, rope_theta=1e6)
OF_GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 3}
OF_GEMMA_2 = {**OF_GEMMA, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0,
              "final_logit_softcapping": 3.0}  # fmt: skip
CASES = {
    "Qwen 3": ("Qwen3ForCausalLM", replace(LLAMA_TINY, head_norms=True), {}),
    "Qwen 2, windows from a layer on": (
        "Qwen2ForCausalLM",
        replace(LLAMA_TINY, windows=(0, 4)),
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "Qwen 3, experts": (
        "Qwen3MoeForCausalLM",
        replace(MIXTRAL_TINY, head_norms=True),
        {"num_experts": 4, "moe_intermediate_size": 160, "intermediate_size": 7,
         "num_experts_per_tok": 2, "norm_topk_prob": True},
    ),
    "Phi 3": ("Phi3ForCausalLM", replace(LLAMA_TINY, window=5), {"sliding_window": 5}),
    "Phi 3, long": (
        "Phi3ForCausalLM",
        replace(LLAMA_TINY, rotary_scale=(1 + np.log(4) / np.log(64)) ** 0.5, context=64,
                frequencies=tuple((np.array(PLAIN) / SHORT).tolist())),
        {"rope_scaling": {"type": "longrope", "short_factor": SHORT.tolist()},
         "original_max_position_embeddings": 64},
    ),
    "Phi 4, a part of a head": (
        "Phi3ForCausalLM",
        replace(LLAMA_TINY, head_size=32, frequencies=PLAIN),
        {"partial_rotary_factor": 0.5},
    ),
    "Gemma": ("GemmaForCausalLM", GEMMA, {"hidden_act": "gelu"}),
    "Gemma 2": ("Gemma2ForCausalLM", GEMMA_2, OF_GEMMA_2),
    "Gemma 3": (
        "Gemma3ForCausalLM",
        replace(GEMMA_3, windows=(3, 0), attention_scale=0.2, local_frequencies=PLAIN,
                frequencies=tuple((frequencies(1e6) / 8).tolist())),
        {**OF_GEMMA, "sliding_window_pattern": 2, "rope_theta": 1e6, "query_pre_attn_scalar": 25,
         "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "Gemma 3 of transformers 5": (
        "Gemma3ForCausalLM",
        replace(GEMMA_3, windows=(0, 3), local_frequencies=tuple(frequencies(500.0).tolist())),
        {**OF_GEMMA, "layer_types": ["full_attention", "sliding_attention"],
         "rope_parameters": {
             "full_attention": {"rope_type": "default", "rope_theta": 1e6},
             "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}},
    ),
}  # fmt: skip


def stored(parameters, architecture):
    """Return the tensors of a folder: fused, and weights of norms less 1, where a family does."""
    names = sorted(parameter_names(parameters.config))
    found = {name: value for name in names if (value := parameters(name)) is not None}
    if architecture.startswith("Gemma"):
        return {n: v - 1 if n.endswith("norm.weight") else v for n, v in found.items()}
    if "Moe" in architecture:
        for ours, theirs in (
            ("block_sparse_moe", "mlp"),
            ("w1", "gate_proj"),
            ("w2", "down_proj"),
            ("w3", "up_proj"),
        ):
            found = {name.replace(f".{ours}.", f".{theirs}."): v for name, v in found.items()}
    if architecture.startswith("Phi"):
        for index in range(parameters.config.layers):
            for parts, fused in (
                (
                    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                    "self_attn.qkv_proj",
                ),
                (["mlp.gate_proj", "mlp.up_proj"], "mlp.gate_up_proj"),
            ):
                name = f"model.layers.{index}."
                whole = [found.pop(f"{name}{part}.weight") for part in parts]
                found[f"{name}{fused}.weight"] = np.concatenate(whole)
    return found


def folder_of(path, architecture, config, more):
    described = {
        "architectures": [architecture], "hidden_act": "silu",
        "num_hidden_layers": config.layers, "hidden_size": config.hidden,
        "intermediate_size": config.intermediate, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "head_dim": config.head_size,
        "vocab_size": config.vocabulary, "rms_norm_eps": config.norm_epsilon,
        "max_position_embeddings": 256, "tie_word_embeddings": config.tied, **more,
    }  # fmt: skip
    path.mkdir()
    (path / "config.json").write_text(json.dumps(described))
    numpy_files.save_file(stored(RandomDecoder(config), architecture), path / "model.safetensors")
    return path


@pytest.mark.parametrize("name", CASES)
def test_settings_names_and_numbers(tmp_path, name):
    architecture, config, more = CASES[name]
    folder = folder_of(tmp_path / "m", architecture, config, more)
    found = open_checkpoint(folder).config
    for part in ("frequencies", "local_frequencies", "rotary_scale"):
        wanted = getattr(config, part)
        if wanted is None:
            assert getattr(found, part) is None
        else:
            np.testing.assert_allclose(getattr(found, part), wanted)
    same = {"frequencies": None, "local_frequencies": None, "rotary_scale": 1.0}
    assert replace(found, **same) == replace(config, **same)
    got = OnnxDecoder(as_onnx(folder)).step(IDS)
    wanted = ReferenceDecoder(config, RandomDecoder(config)).step(IDS)
    np.testing.assert_allclose(got, wanted, atol=2e-3)


def test_a_session_of_gemma_3(tmp_path):
    """Norms of heads, two tables of angles, a window in one of two layers, scales and limits."""
    architecture, config, more = CASES["Gemma 3"]
    config, more = replace(config, logit_softcap=3.0), {**more, "final_logit_softcapping": 3.0}
    folder = folder_of(tmp_path / "m", architecture, config, more)
    session = tvm_sparse.compile(folder, threads=2).session(tokens=64)
    reference = ReferenceDecoder(config, RandomDecoder(config))
    np.testing.assert_allclose(session.step(IDS), reference.step(IDS), atol=1e-4)
    np.testing.assert_allclose(session.step([9]), reference.step([9]), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer_types": ["full_attention", "linear_attention"]}, "'linear_attention'"),
        ({"use_bidirectional_attention": True}, "see later ones"),
        ({"hidden_activation": "relu"}, "activation 'relu'"),
    ],
)
def test_other_networks_are_refused(tmp_path, change, said):
    folder = folder_of(tmp_path / "m", "Gemma2ForCausalLM", GEMMA_2, {**OF_GEMMA_2, **change})
    with pytest.raises(ModelError, match=said):
        open_checkpoint(folder)
