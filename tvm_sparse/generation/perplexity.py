"""How well a language model predicts a text: its perplexity."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.errors import InputError

_AT_ONCE = 64
"""Tokens whose logits are in memory together."""


class Session(Protocol):
    """What perplexity needs of a session of a language model."""

    def step(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Read tokens, and return the logits behind each."""

    def reset(self) -> None:
        """Forget all tokens."""


@dataclass(frozen=True)
class Perplexity:
    """What a model makes of a text.

    Attributes
    ----------
    value : float
        ``exp`` of the mean of ``-log p`` of the tokens that count, by what stands before each: 1
        for a model that knows them all, and the size of the vocabulary for one that knows nothing.
    scored, tokens : int
        Tokens that count, and tokens that were read.
    seconds : float
        The time of reading them.
    """

    value: float
    scored: int
    tokens: int
    seconds: float


def perplexity(session: Session, ids: Sequence[int], window: int) -> Perplexity:
    """Return the perplexity of a text.

    The text is cut into whole windows, and in each the tokens of the second half count, which are
    predicted from the first half on; so does llama.cpp. Of a text that is shorter than a window,
    all tokens but the first one count.

    Parameters
    ----------
    session : Session
        It has room for a window, and forgets what it read.
    ids : sequence of int
        The tokens of the text.
    window : int
        The tokens of a window.

    Raises
    ------
    InputError
        If no token counts.
    """
    if len(ids) < window:
        window, first = len(ids), 1
    else:
        first = window // 2
    if window < 2:
        raise InputError("perplexity takes a text of two tokens or more")
    total, scored, seconds = 0.0, 0, 0.0
    windows = len(ids) // window
    for start in range(0, windows * window, window):
        part = ids[start : start + window]
        session.reset()
        for place in range(0, window, _AT_ONCE):
            begin = time.perf_counter()
            logits = session.step(part[place : place + _AT_ONCE])
            seconds += time.perf_counter() - begin
            # The logits behind a token are about the next one.
            next_ones = range(max(place + 1, first), min(place + _AT_ONCE, window - 1) + 1)
            total += sum(_surprise(logits[n - 1 - place], part[n]) for n in next_ones)
            scored += len(next_ones)
    session.reset()
    return Perplexity(math.exp(total / scored), scored, windows * window, seconds)


def _surprise(logits: NDArray[np.float32], token: int) -> float:
    """Return -log of the probability of a token."""
    wide = logits.astype(np.float64)
    highest = wide.max()
    return float(highest + np.log(np.exp(wide - highest).sum()) - wide[token])
