"""What tests of generation need in the place of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


class WordySession:
    """A language model whose next token depends on the last two tokens, so that it repeats itself.

    Parameters
    ----------
    seed : int
        Of its logits.
    vocabulary : int
        Its tokens.

    Attributes
    ----------
    read : list of int
        The tokens in the cache.
    steps : int
        How often `step` was called.
    """

    def __init__(self, seed: int = 0, vocabulary: int = 12) -> None:
        shape = vocabulary, vocabulary, vocabulary
        self.logits = np.random.default_rng(seed).normal(0, 2, shape).astype("float32")
        self.read: list[int] = []
        self.steps = 0

    @property
    def position(self) -> int:
        """The number of tokens in the cache."""
        return len(self.read)

    def step(self, ids: Sequence[int], last_only: bool = False) -> np.ndarray:
        """Read tokens; return the logits behind each, or behind the last one."""
        self.steps += 1
        rows = []
        for token in ids:
            self.read.append(token)
            before = self.read[-2] if len(self.read) > 1 else 0
            rows.append(self.logits[before, token])
        return np.stack(rows[-1:] if last_only else rows)

    def rewind(self, count: int) -> None:
        """Forget the last tokens."""
        assert 0 <= count <= len(self.read)
        del self.read[len(self.read) - count :]


def byte_tokenizer(folder: Path) -> Path:
    """Write a ``tokenizer.json`` whose 256 tokens are bytes, and return its path."""
    import tokenizers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, [])
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path
