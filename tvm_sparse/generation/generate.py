"""The loop of generation: a token is chosen, read by the model, and the next one is chosen."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tvm_sparse.errors import InputError
from tvm_sparse.generation.lookup import draft
from tvm_sparse.generation.sampling import Sampler


class Session(Protocol):
    """What generation needs of a session of a language model."""

    @property
    def position(self) -> int:
        """The number of tokens that were read."""

    def step(self, ids: Sequence[int], last_only: bool = False) -> np.ndarray:
        """Read tokens, and return the logits behind each or behind the last one."""

    def rewind(self, count: int) -> None:
        """Forget the last tokens."""


@dataclass
class Progress:
    """What a generation did so far; the loop keeps it up to date.

    Attributes
    ----------
    prompt_tokens, written_tokens : int
        Tokens that were read first, and tokens that were chosen after them.
    drafted_tokens, accepted_tokens : int
        Tokens that were guessed, and those of them that the model chose, too.
    prompt_seconds, write_seconds : float
        The time to the first token, and the time of those after it, in seconds.
    ended : str
        Why generation ended: ``"length"`` after the most tokens, ``"stop"`` at a token that ends
        a text, and empty while it goes on.
    """

    prompt_tokens: int = 0
    written_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prompt_seconds: float = 0.0
    write_seconds: float = 0.0
    ended: str = field(default="")

    @property
    def prefill_tokens_per_second(self) -> float:
        """Tokens of the prompt that a second read."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens that a second wrote, from the second one on."""
        steps = self.written_tokens - 1
        return steps / self.write_seconds if steps > 0 and self.write_seconds else 0.0


def generate(
    session: Session,
    prompt: Sequence[int],
    tokens: int,
    sampler: Sampler | None = None,
    stop: Collection[int] = (),
    lookup: int = 0,
    progress: Progress | None = None,
    before: Sequence[int] = (),
) -> Iterator[int]:
    """Yield the tokens that follow a prompt.

    Wherever the caller ends the loop, the session has read the prompt and the tokens that were
    yielded, of which it may still have to read the last one; its position says so.

    Parameters
    ----------
    session : Session
        It reads on from where it stands.
    prompt : sequence of int
        Tokens to read first, at least one.
    tokens : int
        The most tokens to yield.
    sampler : Sampler, optional
        How tokens are chosen; by default, the likeliest one.
    stop : collection of int
        Tokens that end a text. They are not yielded.
    lookup : int
        The most tokens that are guessed from the text so far and verified in one step. What is
        yielded is the same, or as probable, with any number.
    progress : Progress, optional
        It is kept up to date.
    before : sequence of int
        What the session read before the prompt, to look guesses up in.

    Raises
    ------
    InputError
        If the prompt is empty, or the session has no room for a token.
    """
    if not len(prompt):
        raise InputError("the prompt has no tokens; give at least one")
    sampler, progress = sampler or Sampler(), progress or Progress()
    known = [*before, *prompt]
    start = time.perf_counter()
    chosen = [sampler.pick(session.step(prompt, last_only=True)[-1])] if tokens > 0 else []
    progress.prompt_tokens, progress.prompt_seconds = len(prompt), time.perf_counter() - start
    while True:
        ahead = len(chosen) - 1  # tokens that were chosen and read, but not yielded
        try:
            for token in chosen:
                if token in stop:
                    progress.ended = "stop"
                    return
                known.append(token)
                progress.written_tokens += 1
                ahead = max(0, ahead - 1)
                yield token
        finally:
            if ahead > 0:
                session.rewind(ahead)
        if progress.written_tokens >= tokens:
            progress.ended = "length"
            return
        start = time.perf_counter()
        guessed = draft(known, min(lookup, tokens - progress.written_tokens - 1))
        chosen = _verified(session, known[-1], guessed, sampler)
        progress.write_seconds += time.perf_counter() - start
        progress.drafted_tokens += len(guessed)
        progress.accepted_tokens += len(chosen) - 1


def _verified(session: Session, last: int, guessed: list[int], sampler: Sampler) -> list[int]:
    """Return the tokens that the model chooses: the guessed ones that it agrees to, and one more.

    A token is chosen from the logits behind its predecessors, as without guesses. So the choice
    has the same distribution.
    """
    logits = session.step([last, *guessed])
    chosen: list[int] = []
    for row, guess in zip(logits, [*guessed, None], strict=True):
        chosen.append(sampler.pick(row))
        if chosen[-1] != guess:
            break
    session.rewind(len(guessed) + 1 - len(chosen))
    return chosen
