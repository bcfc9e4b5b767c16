import importlib

import numpy as np
import onnxruntime
import pytest

from tvm_sparse.zoo.random_weights import RandomWeights
from tvm_sparse.zoo.transformers import TransformerConfig, bert

CONFIG = TransformerConfig(
    layers=1, width=384, heads=12, intermediate=64, vocabulary=50, positions=16
)


@pytest.fixture
def minilm():
    return importlib.import_module("minilm")


def test_mean_pooling_averages_unmasked_tokens_and_normalizes(tmp_path, minilm):
    options = {"config": CONFIG, "weights": RandomWeights(0.5), "shape": (1, 8)}
    hidden = onnxruntime.InferenceSession(bert(tmp_path / "hidden.onnx", **options))
    path = bert(tmp_path / "pooled.onnx", head=minilm.mean_pooling, **options)
    inputs = {
        "input_ids": np.arange(8)[None],
        "attention_mask": np.array([[1, 1, 1, 1, 1, 0, 0, 0]]),
        "token_type_ids": np.zeros((1, 8), np.int64),
    }
    mean = hidden.run(None, inputs)[0][0, :5].mean(axis=0)
    actual = minilm.onnxruntime_run(path)(inputs)["sentence_embedding"][0]
    np.testing.assert_allclose(actual, mean / np.linalg.norm(mean), atol=1e-6)


def test_quality_of_the_unchanged_model_is_perfect(minilm):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2 * len(minilm.PAIRS), 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    result = minilm.quality(vectors, vectors)
    assert result.embedding_cosine == pytest.approx(1.0)
    assert result.mean_change == 0.0
    assert result.rank_to_dense == pytest.approx(1.0)


def test_every_grade_has_sentence_pairs_and_no_sentence_appears_twice(minilm):
    grades = [grade for grade, _, _ in minilm.PAIRS]
    assert sorted(set(grades)) == [0, 1, 2, 3, 4]
    sentences = [sentence for _, *pair in minilm.PAIRS for sentence in pair]
    assert len(set(sentences)) == len(sentences)
