"""How the next token is chosen from logits."""

from __future__ import annotations

import numpy as np

from tvm_sparse.errors import InputError


class Sampler:
    """Chooses tokens: the likeliest one, or a random one by its probability.

    Parameters
    ----------
    temperature : float
        Logits are divided by it; 0 takes the likeliest token always.
    top_p : float
        Only the likeliest tokens are drawn whose probabilities reach this sum: nucleus sampling
        (Holtzman et al., The Curious Case of Neural Text Degeneration, 2020, section 3.1).
    seed : int, optional
        The seed of what is drawn; by default every sampler draws anew.

    Raises
    ------
    InputError
        If `temperature` is below 0 or not finite, or `top_p` is not above 0 and at most 1.
    """

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None
    ) -> None:
        if not 0 <= temperature < np.inf:
            raise InputError(f"the temperature is {temperature}; it must be 0 or more")
        if not 0 < top_p <= 1:
            raise InputError(f"top-p is {top_p}; it must be above 0 and at most 1")
        if seed is not None and seed < 0:
            raise InputError(f"the seed is {seed}; it must be 0 or more")
        self.temperature = temperature
        self.top_p = top_p
        self._random = np.random.default_rng(seed)

    def pick(self, logits: np.ndarray) -> int:
        """Return a token.

        Parameters
        ----------
        logits : numpy.ndarray
            Floats ``[vocabulary]``.

        Raises
        ------
        InputError
            If a logit is NaN: no choice among them means anything.
        """
        if np.isnan(logits).any():
            raise InputError("a logit is NaN, so that no next token can be chosen")
        if self.temperature == 0:
            return int(np.argmax(logits))
        return int(self._random.choice(len(logits), p=self.probabilities(logits)))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability of each token, float64 ``[vocabulary]``; `temperature` is not 0.

        Parameters
        ----------
        logits : numpy.ndarray
            Floats ``[vocabulary]``.
        """
        scaled = logits.astype(np.float64) / self.temperature
        weights = np.exp(scaled - scaled.max())
        weights /= weights.sum()
        if self.top_p < 1:
            order = np.argsort(-weights, kind="stable")
            before = np.cumsum(weights[order]) - weights[order]
            weights[order[before >= self.top_p]] = 0
            weights /= weights.sum()
        return weights
