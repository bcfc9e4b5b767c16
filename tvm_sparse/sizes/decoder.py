"""What a session must know of a compiled language model: its caches, its functions, its limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm_sparse.sizes.cached_attention import CachedAttention

ROWS = (1, 4, 16)
"""Tokens of a call, for each of which the library has functions: the next token, a guess of some
tokens that is to be verified, and a part of a prompt."""


@dataclass(frozen=True)
class CacheSpec:
    """The cache of an attention.

    Attributes
    ----------
    kv_heads, head_dim : int
        Heads of keys and values, and the channels of each.
    dtype : str
        The type of the elements. Behind those of ``int8`` lie their scales, float32 of each head
        and position.
    """

    kv_heads: int
    head_dim: int
    dtype: str

    def shapes(self, blocks: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the shapes of the tensors of keys and values, of a number of blocks."""
        head = self.kv_heads, self.kv_heads, self.head_dim
        return CachedAttention(1, *head, scale=1.0, cache=self.dtype).caches(blocks)


@dataclass(frozen=True)
class Decoder:
    """A language model that computes tokens one after another.

    Attributes
    ----------
    vocabulary : int
        Logits of a token.
    caches : tuple of CacheSpec
        The caches, in the order of the functions' parameters.
    ids : str
        The type of the tokens.
    limit : int
        The most tokens of a sequence, for which the model has tables; 0 if it has none.
    rows : tuple of int
        The tokens of a call, in ascending order, for each of which there are functions.
    """

    vocabulary: int
    caches: tuple[CacheSpec, ...]
    ids: str = "int64"
    limit: int = 0
    rows: tuple[int, ...] = ROWS

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Decoder:
        """Return what `dataclasses.asdict` made a dictionary of."""
        caches = tuple(CacheSpec(**cache) for cache in fields["caches"])
        return cls(**{**fields, "caches": caches, "rows": tuple(fields["rows"])})

    def chunks(self, tokens: int) -> Iterator[tuple[int, int]]:
        """Yield the rows of the functions that compute a number of tokens, and how many are used.

        A function is used for fewer tokens than it has rows if smaller ones would run three times
        instead. A function of one row is no replacement for others: all read every weight once.
        """
        while tokens:
            fitting = next((rows for rows in self.rows if rows >= tokens), self.rows[-1])
            smaller = max((r for r in self.rows if 1 < r < fitting), default=0)
            rows = smaller if tokens <= 2 * smaller else fitting
            used = min(rows, tokens)
            yield rows, used
            tokens -= used


def function_name(rows: int, last_only: bool) -> str:
    """Return the name of the function that computes `rows` tokens.

    Its parameters are the tokens ``(1, rows)``, the state ``(rows, 5)`` as `call_state` makes it,
    and for each attention the addresses of the caches of keys and of values of each sequence, int64
    ``(2, rows)``. Its result are the logits ``(1, rows, vocabulary)``, or with `last_only` those
    behind the last token of the first sequence, ``(1, 1, vocabulary)``.
    """
    return f"{'last' if last_only and rows > 1 else 'rows'}_{rows}"
