"""Drafts of the next tokens, looked up in the text so far.

Text repeats itself: names, code, and what an answer quotes from its question. Where the last few
tokens stood before, those that followed them are a good guess, and a model verifies a few guessed
tokens in the time of one. The idea is prompt lookup decoding (Apoorv Saxena, 2023,
https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

LONGEST_MATCH = 3
"""The most tokens at the end of a text that are looked up; shorter ends are tried after it."""


def draft(ids: Sequence[int], most: int) -> list[int]:
    """Return up to `most` tokens that may follow `ids`; none if its end is new.

    Parameters
    ----------
    ids : sequence of int
        The tokens so far.
    most : int
        The most tokens to guess.
    """
    if most <= 0:
        return []
    known = array("q", ids)
    text, size = known.tobytes(), known.itemsize
    for length in range(min(LONGEST_MATCH, len(known) - 1), 0, -1):
        end = text[-length * size :]
        at = text.rfind(end, 0, -size)
        while at % size:  # a match that begins inside of a token, or none, which is -1
            at = text.rfind(end, 0, at + len(end) - 1) if at >= 0 else -size
        if at >= 0:
            follows = at // size + length
            return known[follows : follows + most].tolist()
    return []
