"""What was decided about each layer with weights, listed in a module attribute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tvm

LAYERS = "tvm_sparse.layers"
"""The module attribute: one entry of `decision` for each layer that was decided about."""


def decision(
    layer: str,
    shape: Sequence[int],
    density: float,
    kernel: str,
    reason: str,
    seconds: float,
    *,
    is_refused: bool = False,
    precision: str = "float32",
) -> dict[str, Any]:
    """Return the entry of one layer.

    Parameters
    ----------
    layer : str
        The layer's name.
    shape : sequence of int
        The shape of its weight.
    density : float
        The share of the weight that is not zero.
    kernel : str
        The name of the kernel.
    reason : str
        One sentence for people.
    seconds : float
        The expected time of the layer.
    is_refused : bool
        Whether no sparse kernel can compute the layer.
    precision : str
        The type of the numbers that the kernel multiplies.
    """
    return {
        "layer": layer,
        "shape": list(shape),
        "density": density,
        "kernel": kernel,
        "reason": reason,
        "is_refused": is_refused,
        "precision": precision,
        "seconds": seconds,
    }


def with_decisions(mod: tvm.IRModule, decisions: Iterable[dict[str, Any]]) -> tvm.IRModule:
    """Return `mod` with more entries behind those that it has."""
    return mod.with_attr(LAYERS, [*(mod.attrs or {}).get(LAYERS, ()), *decisions])
