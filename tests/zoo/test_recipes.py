import math

import numpy as np
import onnx
import onnxruntime
import pytest

from tvm_sparse.bench.arrays import graph_inputs, random_inputs
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.zoo import recipes
from tvm_sparse.zoo.random_weights import RandomWeights
from tvm_sparse.zoo.transformers import BERT_TINY, VIT_TINY, bert, vit

BERT_SHAPES = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (2, 16))
VIT_SHAPES = {"pixel_values": (2, 3, 64, 64)}


def build_vit(path, **options):
    return vit(path, VIT_TINY, RandomWeights(0.9), image=64, classes=10, **options)


def build_bert(path, **options):
    return bert(path, BERT_TINY, RandomWeights(0.9), **options)


def inputs_of(path, shapes, seed=0):
    model, _ = read_model(path)
    bind_shapes(model, shapes)
    return random_inputs(graph_inputs(model), seed)


def run(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def weights_of(path):
    graph = onnx.load(path).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.mark.parametrize("build, shapes", [(build_bert, BERT_SHAPES), (build_vit, VIT_SHAPES)])
def test_every_opset_is_valid_and_computes_the_same(tmp_path, build, shapes):
    results = []
    for opset in (11, 13, 16, 17):
        path = build(tmp_path / f"{opset}.onnx", opset=opset)
        onnx.checker.check_model(path, full_check=True)
        results.append(run(path, inputs_of(path, shapes)))
    for other in results[:-1]:
        for actual, expected in zip(other, results[-1], strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_layer_norm_is_one_node_only_from_opset_17_on(tmp_path):
    kinds = {
        opset: [
            node.op_type for node in onnx.load(build_bert(tmp_path / "m", opset=opset)).graph.node
        ]
        for opset in (16, 17)
    }
    assert kinds[17].count("LayerNormalization") == 1 + 2 * BERT_TINY.layers
    assert kinds[16].count("ReduceMean") == 2 * (1 + 2 * BERT_TINY.layers)
    assert "LayerNormalization" not in kinds[16]


@pytest.mark.parametrize("build, shapes", [(build_bert, BERT_SHAPES), (build_vit, VIT_SHAPES)])
def test_outputs_depend_on_the_input(tmp_path, build, shapes):
    path = build(tmp_path / "model.onnx")
    first, second = (run(path, inputs_of(path, shapes, seed)) for seed in (0, 1))
    for a, b in zip(first, second, strict=True):
        assert np.abs(a - b).max() > 0.2 * np.abs(a).max()


def test_tokens_stay_distinct(tmp_path):
    path = build_bert(tmp_path / "model.onnx")
    hidden = run(path, inputs_of(path, BERT_SHAPES))[0][0]
    correlation = np.corrcoef(hidden)
    assert correlation[~np.eye(len(hidden), dtype=bool)].mean() < 0.8


def test_sparsity_is_exact_and_embeddings_are_dense(tmp_path):
    weights = weights_of(build_bert(tmp_path / "model.onnx"))
    pruned = {name: w for name, w in weights.items() if name.endswith("weight_t")}
    assert len(pruned) == 6 * BERT_TINY.layers
    for array in pruned.values():
        assert np.count_nonzero(array) == round(0.1 * array.size)
    for name, array in weights.items():
        if ("embeddings" in name and array.dtype == np.float32) or "pooler" in name:
            assert np.count_nonzero(array) == array.size


def test_the_same_seed_gives_the_same_file(tmp_path):
    first = build_bert(tmp_path / "a.onnx").read_bytes()
    assert build_bert(tmp_path / "b.onnx").read_bytes() == first
    other = bert(tmp_path / "c.onnx", BERT_TINY, RandomWeights(0.9, seed=1))
    assert other.read_bytes() != first


def test_static_shapes(tmp_path):
    path = build_bert(tmp_path / "model.onnx", shape=(2, 16))
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [2, 16]
    onnx.checker.check_model(path, full_check=True)


def test_large_weights_go_to_a_file_of_their_own(tmp_path, monkeypatch):
    inside = build_bert(tmp_path / "inside.onnx")
    monkeypatch.setattr("tvm_sparse.zoo.onnx_builder.EXTERNAL_DATA_BYTES", 1000)
    path = build_bert(tmp_path / "outside.onnx")
    assert path.stat().st_size < (tmp_path / "outside.onnx.data").stat().st_size
    inputs = inputs_of(path, BERT_SHAPES)
    np.testing.assert_array_equal(run(path, inputs)[0], run(inside, inputs)[0])


def test_bert_equals_its_definition(tmp_path):
    path = build_bert(tmp_path / "model.onnx")
    inputs = inputs_of(path, BERT_SHAPES)
    inputs["attention_mask"][1, 9:] = 0
    hidden, pooled = run(path, inputs)
    expected = bert_definition(RandomWeights(0.9), **inputs)
    np.testing.assert_allclose(hidden, expected, atol=2e-5)
    dense = expected[:, 0] @ RandomWeights(0.9)("pooler.dense.weight", (64, 64)).T
    bias = RandomWeights(0.9)("pooler.dense.bias", (64,))
    np.testing.assert_allclose(pooled, np.tanh(dense + bias), atol=2e-5)


def bert_definition(weights, input_ids, attention_mask, token_type_ids):
    """The encoder of Devlin et al. 2018 in float64, a head and a sequence at a time."""
    width, wide, heads = BERT_TINY.width, BERT_TINY.intermediate, BERT_TINY.heads
    erf = np.vectorize(math.erf)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + BERT_TINY.epsilon)
        return x * weights(f"{name}.weight", (width,)) + weights(f"{name}.bias", (width,))

    def linear(x, name, n, k):
        return x @ weights(f"{name}.weight", (n, k)).T.astype(float) + weights(f"{name}.bias", (n,))

    def table(name, size):
        return weights(f"embeddings.{name}_embeddings.weight", (size, width)).astype(float)

    def encode(ids, mask, types):
        x = table("word", BERT_TINY.vocabulary)[ids] + table("token_type", 2)[types]
        x = norm(x + table("position", BERT_TINY.positions)[: len(ids)], "embeddings.LayerNorm")
        for layer in range(BERT_TINY.layers):
            at = f"encoder.layer.{layer}"
            q, k, v = (
                np.split(linear(x, f"{at}.attention.self.{p}", width, width), heads, axis=1)
                for p in ("query", "key", "value")
            )
            contexts = []
            for head in range(heads):
                scores = q[head] @ k[head].T / np.sqrt(width / heads)
                weight = np.exp(scores) * mask
                contexts.append(weight / weight.sum(-1, keepdims=True) @ v[head])
            context = np.concatenate(contexts, axis=1)
            x = norm(
                x + linear(context, f"{at}.attention.output.dense", width, width),
                f"{at}.attention.output.LayerNorm",
            )
            y = linear(x, f"{at}.intermediate.dense", wide, width)
            y = y * (1 + erf(y / np.sqrt(2))) / 2
            x = norm(x + linear(y, f"{at}.output.dense", width, wide), f"{at}.output.LayerNorm")
        return x

    return np.array(list(map(encode, input_ids, attention_mask, token_type_ids)))


def test_recipes_are_named_by_family_and_sparsity(tmp_path):
    recipe = recipes.recipe("bert-tiny-80")
    weights = weights_of(recipe.build(tmp_path / "model.onnx"))
    array = weights["encoder/layer.0/intermediate/dense/weight_t"]
    assert np.count_nonzero(array) == round(0.2 * array.size)
    assert set(recipe.shapes) == set(BERT_SHAPES)


@pytest.mark.parametrize("name", ["bert-tiny", "bert-tiny-101", "bert-tiny-x", "gpt-90", ""])
def test_an_unknown_recipe_lists_the_families(name):
    with pytest.raises(ModelError, match="the families are bert-base, bert-large"):
        recipes.recipe(name)
