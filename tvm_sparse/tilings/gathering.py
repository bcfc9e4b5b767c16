"""What it costs convolutions to gather their inputs into a window, and to load them from there."""

from __future__ import annotations

from tvm_sparse.cpu.rates import line_elements
from tvm_sparse.sizes.conv2d import Window

GATHER_CYCLES = 2.0
"""Cycles to load, shuffle and store a vector of the window. Measured on a Xeon with AVX-512."""


def lines_per_load(window: Window) -> float:
    """Return how many cache lines a load of a vector touches on average."""
    taps = [
        (window.offset(0, 0, dx) - window.lead) % window.width
        for dx in range(window.problem.kernel[1])
    ]
    return 1 + sum(map(bool, taps)) / len(taps) * window.width / line_elements(window.problem.dtype)
