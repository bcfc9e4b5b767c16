"""Synthetic images, speech, text and features, as trained models expect them.

Random numbers alone are poor inputs: a detector that sees no edges answers zeros everywhere, and
any error is small beside them. These signals have structure and the range of real ones. All of
them are seeded, so that every run of a program sees the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples of speech in a second."""

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def image(channels: int, height: int, width: int, low: float = -1.0, high: float = 1.0) -> Floats:
    """Return one picture of gradients, rectangles and a little noise.

    Parameters
    ----------
    channels, height, width : int
        Its size.
    low, high : float
        Its smallest and its largest value.

    Returns
    -------
    numpy.ndarray
        (1, channels, height, width).
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    pixels = rng.normal(0, 0.1, (channels, height, width))
    for channel in pixels:
        for _ in range(6):
            slope_y, slope_x = rng.uniform(0, 0.3, 2)
            wave = np.sin(slope_y * y + slope_x * x + rng.uniform(0, 2 * np.pi))
            channel += rng.uniform(0.2, 1) * wave
    for _ in range(25):
        top, left = rng.integers(0, height), rng.integers(0, width)
        tall, wide = rng.integers(2, max(3, height // 8)), rng.integers(2, max(3, width // 6))
        color = rng.uniform(-2, 2, (channels, 1, 1))
        pixels[:, top : top + tall, left : left + wide] += color
    scaled = (pixels - pixels.min()) / np.ptp(pixels)
    return np.asarray(low + (high - low) * scaled, np.float32)[None]


def speech(samples: int, rate: int = SAMPLE_RATE) -> Floats:
    """Return harmonics that start and stop like syllables, with a little noise; (1, samples).

    The values stay between about -1 and 1.
    """
    rng = np.random.default_rng(0)
    seconds = np.arange(samples) / rate
    signal = rng.normal(0, 0.01, samples)
    for _ in range(8):
        tone = np.sin(2 * np.pi * rng.uniform(80, 3000) * seconds + rng.uniform(0, 2 * np.pi))
        is_voiced = np.sin(2 * np.pi * rng.uniform(1, 5) * seconds) > 0
        signal += rng.uniform(0.02, 0.15) * tone * is_voiced
    return signal[None].astype(np.float32)


def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Floats:
    """Return normal numbers: features, or the states of a recurrent layer."""
    return np.random.default_rng(0).normal(mean, scale, shape).astype(np.float32)


def tokens(*shape: int, below: int, least: int = 0) -> Integers:
    """Return ids of tokens, from `least` to less than `below`."""
    return np.random.default_rng(0).integers(least, below, shape)


def ones(*shape: int) -> Integers:
    """Return the mask of a text without padding."""
    return np.ones(shape, np.int64)
