"""Any number of items in batches of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def split(arrays: Sequence[np.ndarray], batch_size: int) -> Iterator[list[np.ndarray]]:
    """Yield batches of `batch_size` items of all arrays; the last one is filled up with zeros."""
    for start in range(0, len(arrays[0]), batch_size):
        parts = [array[start : start + batch_size] for array in arrays]
        missing = batch_size - len(parts[0])
        if missing:
            parts = [
                np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
                for part in parts
            ]
        yield [np.ascontiguousarray(part) for part in parts]


def joined(batches: Sequence[Sequence[np.ndarray]], items: int) -> list[np.ndarray]:
    """Return the outputs of batches as those of one batch of `items` items."""
    return [np.concatenate(outputs)[:items] for outputs in zip(*batches, strict=True)]
