"""An attention whose products and weights are rounded is one operator, with the same numbers."""

import numpy as np
import pytest
from tvm import relax

from tvm_sparse.cpu.profile import native
from tvm_sparse.formats.quantization import Quantization, Roundings
from tvm_sparse.passes.canonicalize.recompose_attention import RecomposeAttention
from tvm_sparse.passes.ir import operators
from tvm_sparse.schedules.operators.attention import Attention
from tvm_sparse.schedules.stage import kernel
from tvm_sparse.testing.kernels import run_kernel

SCORES = Quantization(0.125, 120, 0, 255)
BIASED = Quantization(0.25, 3, -128, 127)
WEIGHTS = Quantization(1 / 256, 0, 0, 255)


def attention(*, biased):
    """Return a module with an attention of two heads, written out."""
    q, k, v = (relax.Var(name, relax.TensorType((1, 2, 8, 4), "float32")) for name in "qkv")
    builder = relax.BlockBuilder()
    with builder.function("main", [q, k, v]):
        with builder.dataflow():
            keys = builder.emit(relax.op.permute_dims(k, [0, 1, 3, 2]))
            scores = builder.emit(relax.op.matmul(q, keys))
            scores = builder.emit(operators.fake_quantize(scores, SCORES))
            scores = builder.emit(relax.op.multiply(scores, relax.const(0.5, "float32")))
            mask = relax.const(np.linspace(-1, 0, 8, dtype="float32").reshape(1, 1, 1, 8))
            scores = builder.emit(relax.op.add(scores, mask))
            if biased:
                scores = builder.emit(operators.fake_quantize(scores, BIASED))
            weights = builder.emit(relax.op.nn.softmax(scores, -1))
            weights = builder.emit(operators.fake_quantize(weights, WEIGHTS))
            y = builder.emit_output(relax.op.matmul(weights, v))
        builder.emit_func_output(y)
    return builder.get()


@pytest.mark.parametrize("biased", [True, False])
def test_roundings_are_those_of_the_scaled_scores_and_of_the_weights(biased):
    after = RecomposeAttention()(attention(biased=biased))
    calls = [b.value for b in after["main"].body.blocks[0].bindings]
    (found,) = (c for c in calls if c.op.name == operators.ROUNDED_ATTENTION.name)
    half = Quantization(SCORES.scale / 2, 120, 0, 255)
    expected = Roundings((half,), (BIASED,) if biased else (), (WEIGHTS,))
    assert operators.roundings_of(found) == expected
    assert float(found.attrs["scale"]) == 0.5


@pytest.mark.parametrize(("tokens", "lanes"), [(16, 16), (21, 16), (40, 32)])
def test_numbers(tokens, lanes):
    cpu, heads, dim = native(), 2, 8
    roundings = Roundings((SCORES,), (BIASED,), (WEIGHTS,))
    sizes = (1, tokens, tokens, heads, dim, lanes, 0.5, (1, 1, 1, tokens), cpu)
    stage = Attention(*sizes, roundings=roundings)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((tokens, heads, dim)).astype("float32") * 3 for _ in "qkv")
    bias = rng.standard_normal((1, 1, 1, tokens)).astype("float32")

    def panels(x):
        rows = -(-tokens // lanes)
        padded = np.zeros((rows * lanes, heads * dim), "float32")
        padded[:tokens] = x.reshape(tokens, -1)
        return padded.reshape(rows, lanes, -1).transpose(0, 2, 1).copy()

    got = run_kernel(kernel(stage), [*map(panels, (q, k, v)), bias], stage.tensor.shape, cpu)
    got = got.transpose(0, 2, 1).reshape(-1, heads, dim)[:tokens]
    scores = SCORES.rounded(0.5 * np.einsum("qhd,khd->hqk", q, k)) + bias[0]
    scores = BIASED.rounded(scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = WEIGHTS.rounded(weights / weights.sum(-1, keepdims=True))
    want = np.einsum("hqk,khd->qhd", weights, v)
    # A weight that lies between two numbers may become either of them.
    assert np.mean(np.abs(got - want) > 1e-5) < 0.02
    assert np.abs(got - want).max() < 0.1
