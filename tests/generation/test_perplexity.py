"""Perplexity of texts, against probabilities that are known."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_sparse.errors import InputError
from tvm_sparse.generation.perplexity import perplexity

VOCABULARY = 11


class Bigrams:
    """A model whose next token depends on the last one, and on how many were read."""

    def __init__(self, ageing=0.0):
        self.logits = np.random.default_rng(0).standard_normal((VOCABULARY, VOCABULARY))
        self.ageing, self.position, self.calls = ageing, 0, []

    def step(self, ids):
        self.calls.append(list(ids))
        factors = 1 + self.ageing * (self.position + np.arange(len(ids)))
        self.position += len(ids)
        return (self.logits[list(ids)] * factors[:, None]).astype("float32")

    def reset(self):
        self.position = 0


def surprise(model, before, token, position):
    logits = model.logits[before] * (1 + model.ageing * position)
    return -np.log(np.exp(logits[token]) / np.exp(logits).sum())


def text(length):
    return np.random.default_rng(1).integers(0, VOCABULARY, length).tolist()


@pytest.mark.parametrize("length", [2, 3, 64, 65, 66, 130, 200])
def test_a_text_shorter_than_a_window(length):
    model, ids = Bigrams(ageing=0.01), text(length)
    found = perplexity(model, ids, 1000)
    every = [surprise(model, ids[i - 1], ids[i], i - 1) for i in range(1, length)]
    assert (found.scored, found.tokens) == (length - 1, length)
    np.testing.assert_allclose(found.value, np.exp(np.mean(every)), rtol=1e-5)
    assert max(map(len, model.calls)) <= 64


@pytest.mark.parametrize(("length", "window"), [(100, 10), (109, 10), (400, 200), (300, 129)])
def test_the_second_half_of_windows_counts(length, window):
    model, ids = Bigrams(ageing=0.02), text(length)
    found = perplexity(model, ids, window)
    every = [
        surprise(model, ids[start + i - 1], ids[start + i], i - 1)
        for start in range(0, length - window + 1, window)
        for i in range(window // 2, window)
    ]
    assert found.scored == len(every)
    np.testing.assert_allclose(found.value, np.exp(np.mean(every)), rtol=1e-5)


def test_a_model_that_knows_nothing_has_the_vocabulary():
    model = Bigrams()
    model.logits[:] = 3
    np.testing.assert_allclose(perplexity(model, text(50), 16).value, VOCABULARY)


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_to_predict(length):
    with pytest.raises(InputError, match="two tokens"):
        perplexity(Bigrams(), text(length), 16)
