"""The share of a weight that is not zero."""

from __future__ import annotations

import numpy as np


def density_of(weight: np.ndarray) -> float:
    """Return the non-zero fraction of a weight; 0 if the weight has no elements."""
    return np.count_nonzero(weight) / max(weight.size, 1)


def density_bucket(density: float) -> str:
    """Return the density in steps of a twentieth, within which times hardly differ."""
    return f"density {round(density * 20) / 20:.2f}" if density > 0.025 else "density 0.02"
