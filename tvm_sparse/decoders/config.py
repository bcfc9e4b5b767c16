"""The sizes and constants of a language model of Llama's family."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.errors import ModelError

_MOST = {"layers": 1 << 12, "context": 1 << 22, "head_size": 1 << 14}
"""Sizes beyond which a file must be broken; they would take much memory before weights do."""


def check_size(name: str, size: int) -> int:
    """Return a size of a decoder, if it is one.

    Whoever computes with a size before there is a `DecoderConfig` checks it first: a loop over all
    layers, or the angles of a head, may take all memory.

    Raises
    ------
    ModelError
        If it is below 1 or absurd.
    """
    most = _MOST.get(name, 1 << 31)
    if not 1 <= size <= most:
        raise ModelError(f"a decoder with {name} {size}: it is from 1 to {most}")
    return size


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder of RMS norms, grouped-query attention with rotary positions, and gated layers.

    Attributes
    ----------
    layers, hidden, intermediate, heads, kv_heads, head_size, vocabulary : int
        The sizes; a key and value head serves ``heads / kv_heads`` query heads.
    rope_theta : float
        The base of the rotary frequencies.
    norm_epsilon : float
        What is added to the mean square in an RMS norm.
    context : int
        Positions that the tables of rotary angles have.
    tied : bool
        Whether the head that computes the logits is the table of embeddings.
    window : int
        Positions that a token attends to, itself included; 0 if all.
    frequencies : tuple of float, optional
        The angles by which a position turns each pair of a head, in radians, if they do not
        follow from `rope_theta` alone, as with Llama 3's scaling.
    experts : int
        Gated layers beside each other, of which a router sends a token to some, as in Mixtral; 0
        for one layer and no router.
    active_experts : int
        Experts that a token is sent to; their shares of the sum add up to 1.
    windows : tuple of int
        A window for each layer in place of `window`, if they differ.
    local_frequencies : tuple of float, optional
        The angles of layers with a window, if they are others than those of layers without.
    rotary_scale : float
        What cosines and sines are multiplied by.
    head_norms : bool
        Whether an RMS norm of each head of queries and keys stands before the rotation.
    result_norms : bool
        Whether an RMS norm stands behind attention and behind the gated layer, before they are
        added, as in Gemma 2.
    embedding_scale : float
        What embeddings are multiplied by.
    activation : str
        The function of the gates: ``silu`` or ``gelu_tanh``.
    attention_scale : float
        What scores are multiplied by; 0 for ``head_size ** -0.5``.
    softcap, logit_softcap : float
        What scores and logits are limited to by the hyperbolic tangent; 0 for no limit.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    context: int = 2048
    tied: bool = False
    window: int = 0
    frequencies: tuple[float, ...] | None = None
    experts: int = 0
    active_experts: int = 2
    windows: tuple[int, ...] = ()
    local_frequencies: tuple[float, ...] | None = None
    rotary_scale: float = 1.0
    head_norms: bool = False
    result_norms: bool = False
    embedding_scale: float = 1.0
    activation: str = "silu"
    attention_scale: float = 0.0
    softcap: float = 0.0
    logit_softcap: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes that make no network.

        Raises
        ------
        ModelError
            If a size is below 1 or absurd, or sizes do not divide each other as they must, or
            angles are no numbers.
        """
        for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_size",
                     "vocabulary", "context"):  # fmt: skip
            check_size(name, getattr(self, name))
        if self.heads % self.kv_heads:
            raise ModelError(
                f"a decoder with {self.heads} heads and {self.kv_heads} heads of keys and values: "
                "the second number must divide the first"
            )
        if self.experts and not 1 <= self.active_experts <= self.experts <= _MOST["layers"]:
            raise ModelError(f"a decoder with {self.active_experts} of {self.experts} experts")
        if self.windows and len(self.windows) != self.layers:
            raise ModelError(f"a decoder of {self.layers} layers with {len(self.windows)} windows")
        if not (0 < self.rope_theta < math.inf and 0 <= self.norm_epsilon < math.inf):
            raise ModelError(
                f"a decoder with the base {self.rope_theta} of its angles, and {self.norm_epsilon} "
                "in its norms"
            )
        angles = (*(self.frequencies or ()), *(self.local_frequencies or ()), self.rotary_scale)
        if not all(map(math.isfinite, angles)):
            raise ModelError("a decoder with angles that are no numbers; its rotation is broken")
        pairs = self.head_size / 2 if self.frequencies is None else len(self.frequencies)
        if pairs % 8 or pairs * 2 > self.head_size:
            raise ModelError(
                f"a decoder that rotates {pairs:g} pairs of heads of {self.head_size}: "
                "GroupQueryAttention rotates a multiple of 8 pairs, at most half the size"
            )

    @property
    def query_width(self) -> int:
        """The channels of all query heads."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """The channels of all key heads."""
        return self.kv_heads * self.head_size

    def window_of(self, layer: int) -> int:
        """Return how many positions a token attends to in a layer; 0 if all."""
        return self.windows[layer] if self.windows else self.window

    def is_local(self, layer: int) -> bool:
        """Return whether a layer has the angles of layers with a window."""
        return self.local_frequencies is not None and self.window_of(layer) > 0

    def rotary_tables(self, local: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosines and sines of the angles, each (context, pairs) float32.

        Parameters
        ----------
        local : bool
            Whether they are those of layers with a window.
        """
        given = self.local_frequencies if local else self.frequencies
        if given is None:
            pairs = np.arange(0, self.head_size, 2, dtype=np.float64) / self.head_size
            frequencies = self.rope_theta**-pairs
        else:
            frequencies = np.array(given, np.float64)
        angles = np.outer(np.arange(self.context, dtype=np.float64), frequencies)
        cosines, sines = np.cos(angles) * self.rotary_scale, np.sin(angles) * self.rotary_scale
        return cosines.astype(np.float32), sines.astype(np.float32)
