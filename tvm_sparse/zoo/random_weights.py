"""Seeded weights of exact sparsity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def random_weight(
    rng: np.random.Generator, shape: tuple[int, ...], sparsity: float
) -> NDArray[np.float32]:
    """Return a weight (outputs first) of exact `sparsity` that keeps the variance of its input.

    Survivors of pruning by magnitude are bounded away from zero, and so are these.
    """
    size = int(np.prod(shape))
    count = round((1 - sparsity) * size)
    flat = np.zeros(size, np.float32)
    places = rng.choice(size, count, replace=False, shuffle=False) if count < size else slice(None)
    values = rng.random(count, np.float32) - np.float32(0.5)
    flat[places] = values + np.copysign(np.float32(0.5), values)
    rows = flat.reshape(shape[0], -1)
    norm = np.sqrt(np.einsum("nk,nk->n", rows, rows))
    rows /= np.where(norm > 0, norm, 1)[:, None]
    return rows.reshape(shape)
