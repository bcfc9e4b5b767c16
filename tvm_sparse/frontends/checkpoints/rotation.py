"""The rotation of heads as Hugging Face's settings describe it.

The scalings are those of transformers (modeling_rope_utils.py): linear, Llama 3's, and the short
factors of LongRoPE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_sparse.errors import ModelError


@dataclass(frozen=True)
class Rotation:
    """By which angles heads are rotated.

    Attributes
    ----------
    theta : float
        The base of the frequencies.
    frequencies : tuple of float, optional
        The frequencies, if they are not those of `theta`.
    scale : float
        What cosines and sines are multiplied by.
    context : int
        The positions for which they are; 0 if the settings of the network say.
    """

    theta: float
    frequencies: tuple[float, ...] | None = None
    scale: float = 1.0
    context: int = 0


@np.errstate(all="ignore")  # `DecoderConfig` refuses what is no number
def rotation_of(
    described: Mapping[str, Any], settings: Mapping[str, Any], head_size: int, folder: Path
) -> Rotation:
    """Return the rotation that settings describe.

    Parameters
    ----------
    described : mapping
        The entry of the settings that is about rotation. With an entry ``is_needed``, the result
        has frequencies.
    settings : mapping
        The settings of the network.
    head_size : int
        The channels of a head.
    folder : Path
        Where they are from, for messages.

    Raises
    ------
    ModelError
        If the scaling is not known.
    """
    theta = float(described.get("rope_theta") or settings.get("rope_theta") or 10000.0)
    part = described.get("partial_rotary_factor") or settings.get("partial_rotary_factor") or 1.0
    rotated = int(head_size * float(part))
    if not 0 < rotated <= head_size:
        raise ModelError(f"{folder}: {rotated} of {head_size} channels of a head are rotated")
    plain = theta ** -(np.arange(0, rotated, 2) / rotated)
    kind = described.get("rope_type", described.get("type", "default"))
    if kind == "default":
        is_plain = rotated == head_size and "is_needed" not in described
        return Rotation(theta, None if is_plain else tuple(plain.tolist()))
    if kind == "linear":
        return Rotation(theta, tuple((plain / float(described["factor"])).tolist()))
    if kind in ("longrope", "su"):
        return _longrope(theta, plain, described, settings)
    if kind != "llama3":
        raise ModelError(
            f"{folder}: rotary scaling {kind!r} cannot be read; linear, llama3 and longrope can"
        )
    factor, low, high, before = (
        float(described[name])
        for name in ("factor", "low_freq_factor", "high_freq_factor",
                     "original_max_position_embeddings")
    )  # fmt: skip
    turns = before * plain / (2 * math.pi)
    # 1 where a pair turns often in the context of the training, 0 where it seldom does.
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return Rotation(theta, tuple((kept * plain + (1 - kept) * plain / factor).tolist()))


def _longrope(
    theta: float, plain: Any, described: Mapping[str, Any], settings: Mapping[str, Any]
) -> Rotation:
    """Return the rotation of short sequences, which ends where that of long ones begins."""
    longest = int(settings["max_position_embeddings"])
    context = int(
        described.get("original_max_position_embeddings")
        or settings.get("original_max_position_embeddings")
        or longest
    )
    scale = described.get("attention_factor")
    if scale is None:
        factor = longest / context
        scale = math.sqrt(1 + math.log(factor) / math.log(context)) if factor > 1 else 1.0
    frequencies = plain / np.array(described["short_factor"], float)
    return Rotation(theta, tuple(frequencies.tolist()), float(scale), context)
