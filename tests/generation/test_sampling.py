"""The choice of a token from logits."""

import numpy as np
import pytest

from tvm_sparse.errors import InputError
from tvm_sparse.generation.sampling import Sampler

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], "float32"))


class TestPick:
    def test_likeliest(self):
        assert Sampler().pick(np.array([1, 3, 2], "float32")) == 1

    def test_seed(self):
        one, same = Sampler(1, seed=3), Sampler(1, seed=3)
        drawn = [one.pick(LOGITS) for _ in range(20)]
        assert drawn == [same.pick(LOGITS) for _ in range(20)]
        assert len(set(drawn)) > 1

    def test_frequencies(self):
        sampler = Sampler(1, seed=0)
        counts = np.bincount([sampler.pick(LOGITS) for _ in range(4000)], minlength=4) / 4000
        np.testing.assert_allclose(counts, np.exp(LOGITS), atol=0.03)

    def test_nan(self):
        with pytest.raises(InputError, match="NaN"):
            Sampler().pick(np.array([0, np.nan], "float32"))


class TestProbabilities:
    def test_temperature(self):
        cold = Sampler(0.5).probabilities(LOGITS)
        squares = np.exp(LOGITS) ** 2
        np.testing.assert_allclose(cold, squares / squares.sum(), rtol=1e-6)

    @pytest.mark.parametrize(
        ("top_p", "kept"), [(0.4, 1), (0.5001, 2), (0.79, 2), (0.81, 3), (1.0, 4)]
    )
    def test_top_p_keeps_the_token_that_reaches_the_sum(self, top_p, kept):
        found = Sampler(1, top_p).probabilities(LOGITS)
        assert np.count_nonzero(found) == kept
        assert found.sum() == pytest.approx(1)

    def test_large_logits(self):
        assert Sampler(1).probabilities(np.array([1e4, 0], "float32"))[0] == pytest.approx(1)


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1}, {"temperature": np.nan}, {"top_p": 0}, {"top_p": 1.1}, {"seed": -1}],
)
def test_refused(options):
    with pytest.raises(InputError, match="must be"):
        Sampler(**options)
