"""Sizes of an attention whose keys and values lie in a cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

TILE = 8
"""Positions of keys, and channels of values, that lie beside each other in a cache."""

BLOCK = 64
"""Positions that are computed at a time. In a cache they lie together, so that it is read from its
beginning to its end; its capacity is a multiple of them."""


@dataclass(frozen=True)
class CachedAttention:
    """An attention of the newest tokens of a sequence to all tokens so far.

    Attributes
    ----------
    tokens : int
        The most new tokens of a call.
    heads, kv_heads : int
        Heads of queries, and of keys and values; consecutive heads of queries share a head of keys.
    head_dim : int
        Channels of a head.
    scale : float
        Factor by which scores are multiplied.
    window : int
        A token attends to as many tokens, itself and those before it; 0 for all of them.
    softcap : float
        Scores are limited to it by the hyperbolic tangent; 0 for no limit.
    rotated : int
        The first channels of each head of queries and keys that are rotated by the angles of the
        position; 0 if they come rotated.
    interleaved : bool
        Whether neighbouring channels are rotated as a pair; otherwise a channel and the one half of
        `rotated` behind it.
    packed : bool
        Whether queries, keys and values are one tensor, one behind the other.
    cache : str
        The type of the elements of the cache, ``float32``, ``float16`` or ``int8``. Elements of
        ``int8`` have a scale for each position and head.
    sinks : bool
        Whether each head of queries has a score of its own that takes a share of the weights, as if
        of a position whose values are 0.
    slopes : bool
        Whether each head of queries has a slope, by which scores grow from position to position.
    """

    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int = 0
    softcap: float = 0.0
    rotated: int = 0
    interleaved: bool = False
    packed: bool = False
    cache: str = "float32"
    sinks: bool = False
    slopes: bool = False

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads of queries do not share {self.kv_heads} of keys")

    @property
    def group(self) -> int:
        """Heads of queries that share a head of keys."""
        return self.heads // self.kv_heads

    @property
    def value_vectors(self) -> int:
        """Vectors of `TILE` channels that hold the values of a position."""
        return -(-self.head_dim // TILE)

    def caches(self, blocks: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the shapes of the caches of keys and values.

        Parameters
        ----------
        blocks : int
            `BLOCK` positions each, or an expression; `blocks_for` says how many hold some tokens.
        """
        return (
            (self.kv_heads, blocks, BLOCK // TILE, self.head_dim, TILE),
            (self.kv_heads, blocks, self.value_vectors, BLOCK, TILE),
        )

    def elements(self, blocks: Any) -> tuple[Any, Any]:
        """Return the numbers of elements of the caches of keys and values."""
        keys, values = self.caches(blocks)
        return math.prod(keys), math.prod(values)

    def splits(self, threads: int) -> int:
        """Return into how many parts the positions of a head are cut, so that threads share."""
        return next(parts for parts in range(1, threads + 1) if not self.kv_heads * parts % threads)


STATE_COLUMNS = 5
"""The numbers of a row of a call's state. A row that holds a token begins with the position of the
token and the number of its sequence, or -1 if the row holds none. Behind them stands what is said
of the sequence that has the number of the row: its first row, its rows, and the blocks of its
cache."""


def blocks_for(tokens: int) -> int:
    """Return the blocks of a cache for a number of tokens."""
    return -(-tokens // BLOCK)
