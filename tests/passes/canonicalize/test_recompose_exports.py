"""The recomposing passes on real exports; `tests/data/export.py` made them."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tvm
from tvm import relax

from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.passes.canonicalize.recompose_attention import RecomposeAttention
from tvm_sparse.passes.canonicalize.recompose_gelu import RecomposeGelu
from tvm_sparse.passes.canonicalize.recompose_layer_norm import RecomposeLayerNorm
from tvm_sparse.passes.canonicalize.recompose_silu import RecomposeSilu
from tvm_sparse.passes.canonicalize.split_linear import SplitLinear
from tvm_sparse.testing.models import operators_of

DATA = Path(__file__).parents[2] / "data"

# Per model of two layers: attentions, layer norms, activations, linear layers, and transposes (of
# ViT's patches; the encoder's come from PyTorch's tokens-first layout).
EXPECTED = {
    "bert-script-11": (2, 5, ("nn.gelu", 2), 12, 0),
    "bert_gelu_tanh-script-17": (2, 5, ("nn.gelu_tanh", 2), 12, 0),
    "bert_sdpa-script-14": (2, 5, ("nn.gelu", 2), 12, 0),
    "bert_sdpa-dynamo-18": (2, 5, ("nn.gelu", 2), 12, 0),
    "bert_sdpa-dynamo-23": (2, 5, ("nn.gelu", 2), 12, 0),
    "encoder-dynamo-20": (2, 4, ("nn.gelu", 2), 12, 0),
    "gpt2-dynamo-18": (2, 5, ("nn.gelu_tanh", 2), 12, 0),
    "mha-dynamo-18": (2, 0, ("nn.gelu", 0), 8, 0),
    "mha_weights-script-14": (2, 0, ("nn.gelu", 0), 8, 0),
    "qkv_sdpa-script-17": (2, 2, ("nn.gelu", 0), 8, 0),
    "silu-dynamo-18": (0, 0, ("nn.silu", 2), 6, 0),
    "vit-script-14": (2, 5, ("nn.gelu", 2), 13, 1),
}

PASSES = tvm.transform.Sequential(
    [
        relax.transform.FoldConstant(),
        RecomposeLayerNorm(),
        RecomposeGelu(),
        RecomposeSilu(),
        RecomposeAttention(),
        SplitLinear(),
    ]
)


def random_inputs(specs, visible=5):
    rng = np.random.default_rng(0)
    for spec in specs:
        if spec.name == "attention_mask":
            mask = np.ones(spec.shape, spec.dtype)
            mask[1, visible:] = 0
            yield spec.name, mask
        elif "int" in spec.dtype:
            yield spec.name, rng.integers(3, 24, spec.shape).astype(spec.dtype)
        else:
            yield spec.name, rng.standard_normal(spec.shape).astype(spec.dtype)


def assert_computes_the_same(mod, name, specs, **options):
    feed = dict(random_inputs(specs, **options))
    session = onnxruntime.InferenceSession(
        DATA / f"{name}.onnx", providers=["CPUExecutionProvider"]
    )
    (expected, *_) = session.run(None, feed)
    vm = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())
    result = vm["main"](*(tvm.runtime.tensor(feed[spec.name]) for spec in specs))
    actual = result.numpy() if hasattr(result, "numpy") else result[0].numpy()
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", EXPECTED)
def test_exports_are_recomposed_and_compute_the_same(name):
    model = import_onnx(DATA / f"{name}.onnx")
    mod = PASSES(model.mod)

    attentions, norms, (activation, activations), linear_layers, transposes = EXPECTED[name]
    counts = Counter(operators_of(mod))
    assert counts["nn.attention"] + counts["nn.attention_bias"] == attentions
    assert counts["nn.layer_norm"] == norms
    assert counts[activation] == activations
    assert counts["matmul"] == linear_layers
    assert counts["permute_dims"] == transposes
    written_out = ("softmax", "erf", "tanh", "sigmoid", "mean", "sqrt", "strided_slice")
    assert not [op for op in counts if op.rpartition(".")[2] in written_out]
    assert_computes_the_same(mod, name, model.inputs)


@pytest.mark.parametrize("name", [name for name in EXPECTED if "bert_sdpa" in name])
def test_a_sequence_without_a_visible_token(name):
    model = import_onnx(DATA / f"{name}.onnx")
    assert_computes_the_same(PASSES(model.mod), name, model.inputs, visible=0)
