"""Seeded weights of exact sparsity.

They keep the signal alive in every layer whatever their sparsity: each row is divided by the norm
of its values. So the outputs of a network depend on its input, and can be checked.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

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


# Sharp attention and weak residual branches keep the tokens of a random network apart. With gains
# of 1, each branch doubles the part that all tokens share, and after a dozen layers no other part
# is left.
_GAINS = {"query.weight": 2.0, "key.weight": 2.0, "output.dense.weight": 0.3}


@dataclass(frozen=True)
class RandomWeights:
    """Seeded parameters of which the encoder's linear weights are pruned.

    Attributes
    ----------
    sparsity : float
        Zero fraction of every pruned weight; exactly ``round((1 - sparsity) * size)`` of its
        values are not zero, at random places.
    seed : int
        The same seed, name and shape give the same parameter.
    """

    sparsity: float
    seed: int = 0

    def __call__(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the parameter called `name`."""
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        if len(shape) == 1:
            noise = 0.1 * rng.standard_normal(shape, np.float32)
            return noise if name.endswith("bias") else 1 + noise
        if "embeddings" in name and "projection" not in name:
            return rng.standard_normal(shape, np.float32)
        pruned = name.startswith("encoder.")
        weight = random_weight(rng, shape, self.sparsity if pruned else 0.0)
        gain = next((gain for end, gain in _GAINS.items() if name.endswith(end)), 1.0)
        return weight * np.float32(gain)
