"""The example that prunes a language model in one shot."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tvm_sparse

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EXAMPLE = Path(__file__).parents[2] / "examples/wanda/wanda.py"


@pytest.fixture(scope="module")
def wanda():
    spec = importlib.util.spec_from_file_location("wanda", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
            if name.endswith("layernorm.weight"):
                parameter[::7] *= 8  # channels that are large, as those of real models
    return model


@pytest.fixture(scope="module")
def windows():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 64, (4, 32)))


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits.numpy()


@pytest.mark.parametrize("zeros", [0.5, (2, 4)], ids=str)
def test_zeros_and_what_they_cost(wanda, windows, zeros):
    """Scores by norms lose less than magnitudes alone, on another text."""
    pruned, by_magnitude = network(), network()
    wanda.wanda(pruned, windows, zeros)
    with torch.no_grad():
        for layer in wanda.layers_of(by_magnitude).values():
            layer.weight.mul_(wanda.prune(layer.weight.abs(), zeros))
    for layer in wanda.layers_of(pruned).values():
        mask = layer.weight != 0
        assert (mask.sum(1) == layer.in_features // 2).all()
        if zeros != 0.5:
            assert (mask.reshape(-1, 4).sum(1) == 2).all()
    other = torch.from_numpy(np.random.default_rng(1).integers(0, 64, (4, 32)))
    want = logits(network(), other)
    lost = [np.linalg.norm(logits(model, other) - want) for model in (pruned, by_magnitude)]
    assert lost[0] < 0.9 * lost[1]
    assert (pruned.lm_head.weight != 0).all()


def test_the_folder_is_compiled(wanda, windows, tmp_path):
    model = network()
    wanda.wanda(model, windows, (2, 4))
    model.save_pretrained(tmp_path / "pruned")
    engine = tvm_sparse.compile(tmp_path / "pruned", threads=2)
    found = engine.session(tokens=32).step(windows[0].tolist())
    np.testing.assert_allclose(found, logits(model, windows[:1])[0], atol=1e-3)
    layers = [layer for layer in engine.report.layers if "proj" in layer.name]
    assert all(layer.density == pytest.approx(0.5) for layer in layers)
