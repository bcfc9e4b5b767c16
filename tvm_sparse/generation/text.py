"""Text to tokens and back, with the package tokenizers, and the words that end a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tvm_sparse.errors import InputError, ToolError, border
from tvm_sparse.generation.gguf_tokenizer import SUFFIX, read_tokenizer


class Tokenizer:
    """The tokenizer of a model.

    Parameters
    ----------
    path : Path
        A file ``tokenizer.json``, as Hugging Face's libraries write it, or a GGUF file.

    Raises
    ------
    ToolError
        If the package tokenizers is not installed.
    InputError
        If the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ToolError(
                "text needs the package tokenizers: `pip install 'tokenizers>=0.21'`, or give "
                "numbers of tokens by --ids"
            ) from error
        if path.suffix == SUFFIX:
            self._tokenizer: Any = read_tokenizer(path)
            return
        with border(InputError, f"{path}: is no tokenizer", "; it must be a tokenizer.json"):
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))

    def encode(self, text: str, has_special: bool = False) -> list[int]:
        """Return the tokens of a text.

        The tokens that the model expects at its beginning are added, unless it `has_special` ones.
        """
        return list(self._tokenizer.encode(text, add_special_tokens=not has_special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(ids)))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of tokens as it becomes complete: a character may have several tokens.

        There is one piece a token, which is empty while a character is not complete.
        """
        from tokenizers.decoders import DecodeStream

        stream: Any = DecodeStream(skip_special_tokens=True)
        for token in ids:
            yield stream.step(self._tokenizer, int(token)) or ""


def until_stop_word(pieces: Iterable[str], words: Sequence[str]) -> Iterator[str]:
    """Yield a text up to the first of some words, which is not part of it.

    What may be the beginning of a word is held back until more of the text is known. No piece is
    taken from `pieces` after the one that completes a word.

    Parameters
    ----------
    pieces : iterable of str
        The text in pieces.
    words : sequence of str
        The words, none of which is empty.

    Raises
    ------
    InputError
        If a word is empty.
    """
    if not all(words):
        raise InputError("a stop word is empty, and would end every text; leave it out")
    return _until_stop_word(pieces, words)


def _until_stop_word(pieces: Iterable[str], words: Sequence[str]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        held += piece
        found = [held.index(word) for word in words if word in held]
        if found:
            yield held[: min(found)]
            return
        ready = len(held) - _length_of_begun_word(held, words)
        yield held[:ready]
        held = held[ready:]
    yield held


def _length_of_begun_word(text: str, words: Sequence[str]) -> int:
    """Return how many characters at the end of a text may be the beginning of a word."""
    longest = max((len(word) - 1 for word in words), default=0)
    for length in range(min(longest, len(text)), 0, -1):
        if any(word.startswith(text[-length:]) for word in words):
            return length
    return 0
