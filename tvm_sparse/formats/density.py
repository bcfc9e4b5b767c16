"""The share of a weight that is not zero."""

from __future__ import annotations

import numpy as np


def count_nonzeros(weight: np.ndarray) -> int:
    """Return how many elements of a weight are not zero; NaN is not."""
    # NumPy compares float32 by vectors and counts truths by vectors, but no floats.
    return int(np.count_nonzero(weight != 0 if weight.dtype == np.float32 else weight))


def density_of(weight: np.ndarray) -> float:
    """Return the non-zero fraction of a weight; 0 if the weight has no elements."""
    return count_nonzeros(weight) / max(weight.size, 1)


def word_density_of(weight: np.ndarray, per_word: int) -> float:
    """Return the share of the words of `per_word` inputs that are not all zeros.

    Parameters
    ----------
    weight : ndarray
        ``[N, K]``; zeros fill up the last word of an output channel.
    per_word : int
        Neighbouring inputs of a word.
    """
    whole = np.pad(weight != 0, ((0, 0), (0, -weight.shape[1] % per_word)))
    return density_of(np.any(whole.reshape(len(weight), -1, per_word), axis=2, keepdims=True))


def density_bucket(density: float) -> str:
    """Return the density in steps of a twentieth, within which times hardly differ."""
    return f"density {round(density * 20) / 20:.2f}" if density > 0.025 else "density 0.02"
