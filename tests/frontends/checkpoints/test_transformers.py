"""Tiny networks of transformers itself, saved as folders, and their logits.

The tests are skipped where torch and transformers are not installed.
"""

from __future__ import annotations

import numpy as np
import pytest

from tvm_sparse.frontends.checkpoints import as_onnx
from tvm_sparse.verification.decoder import OnnxDecoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "attn_implementation": "eager", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
HEAD = {"head_dim": 32}
MIXED = {
    **HEAD, "sliding_window": 4, "query_pre_attn_scalar": 12,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
    "short_factor": np.linspace(1, 2, 8).tolist(), "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 32,
}  # fmt: skip
NETWORKS = {
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Qwen2": {},
    "Qwen3": HEAD,
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {
        **HEAD, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "norm_topk_prob": True,
    },
    "Phi3": {"sliding_window": 5},
    "Phi3, long": {
        "num_attention_heads": 2, "rope_parameters": LONG, "tie_word_embeddings": True,
        "original_max_position_embeddings": 32,
    },
    "Gemma": HEAD,
    "Gemma2": {**MIXED, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 2.0},
    "Gemma3": {
        **MIXED,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_logits(tmp_path, name):
    kind = name.partition(",")[0]
    suffix = "TextConfig" if kind == "Gemma3" else "Config"
    config = getattr(transformers, f"{kind}{suffix}")(**{**SIZES, **NETWORKS[name]})
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * scale)
    model.save_pretrained(tmp_path / "m")
    ids = [3, 90, 7, 7, 51, 12, 5, 44, 8]
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    got = OnnxDecoder(as_onnx(tmp_path / "m")).step(ids)
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())
    assert (got.argmax(-1) == wanted.argmax(-1)).all()
