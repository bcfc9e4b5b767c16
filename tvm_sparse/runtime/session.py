"""A sequence of tokens of a decoder: its caches of keys and values, and its position."""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.errors import InputError
from tvm_sparse.runtime.cache_arrays import CacheArrays
from tvm_sparse.runtime.session_calls import CacheMemory, Call, Part
from tvm_sparse.sizes.cached_attention import blocks_for

if TYPE_CHECKING:
    from tvm_sparse.runtime.engine import Engine

MOST_TOKENS = 4096
"""The tokens of a session if nobody says how many."""


class Session:
    """A sequence of tokens; `Engine.session` makes it.

    Sessions of an engine share its weights, and may be used in turn or by several threads. A
    session is cheap: its caches take memory only where tokens have been.

    Parameters
    ----------
    engine : Engine
        A decoder.
    tokens : int, optional
        The most tokens of the sequence.

    Raises
    ------
    InputError
        If the model is no decoder, or does not take as many tokens.
    """

    def __init__(self, engine: Engine, tokens: int | None = None) -> None:
        decoder = engine.info.decoder
        if decoder is None:
            raise InputError(
                "the model is no decoder: it has no caches of past keys and values that this "
                "version knows; call engine.run"
            )
        if tokens is None:
            tokens = min(MOST_TOKENS, decoder.limit or MOST_TOKENS)
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise InputError(f"tokens={tokens!r}: the tokens of a session are a number from 1 on")
        if decoder.limit and tokens > decoder.limit:
            raise InputError(
                f"tokens={tokens}: the model has tables for sequences of up to {decoder.limit}"
            )
        self._engine, self._decoder, self._tokens = engine, decoder, tokens
        self._position = 0
        self._lock = threading.Lock()
        blocks = blocks_for(tokens)
        self._caches = [CacheArrays(cache, blocks) for cache in decoder.caches]
        self._memory = CacheMemory([array for cache in self._caches for array in cache.elements])
        self._call = Call(engine, decoder)

    def __repr__(self) -> str:
        return f"Session({self._position} of {self._tokens} tokens)"

    @property
    def position(self) -> int:
        """The tokens in the caches: the position of the next one."""
        return self._position

    @property
    def tokens(self) -> int:
        """The most tokens of the sequence."""
        return self._tokens

    def step(self, ids: Sequence[int], last_only: bool = False) -> NDArray[np.float32]:
        """Append tokens to the sequence: a prompt, a part of it, or the next token.

        Parameters
        ----------
        ids : sequence of int
            One token or more.
        last_only : bool
            Whether only the logits behind the last token are computed.

        Returns
        -------
        numpy.ndarray
            float32 ``(tokens, vocabulary)``, or ``(1, vocabulary)`` with `last_only`: the logits
            behind each token.

        Raises
        ------
        InputError
            If there is no token, one is not in the model's vocabulary, or they do not fit into the
            session, which then stays as it was.
        RunError, TargetError, ClosedError
            As `Engine.run` raises them.
        """
        tokens = self._checked(ids)
        logits = []
        with self._lock:
            position, done = self._position, 0
            self._check_room(len(tokens))
            for rows, used in self._decoder.chunks(len(tokens)):
                part = Part(self._memory, position, tokens[done : done + used])
                found = self._call([part], rows, last_only)
                done += used
                if not last_only:
                    logits.append(found[:used])
                elif done == len(tokens):
                    logits.append(found)
                position += used
            self._position = position
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def rewind(self, tokens: int) -> None:
        """Forget the last tokens.

        Raises
        ------
        InputError
            If there are not as many.
        """
        with self._lock:
            if isinstance(tokens, bool) or not 0 <= operator.index(tokens) <= self._position:
                raise InputError(
                    f"the session has {self._position} tokens; it cannot forget {tokens}"
                )
            self._position -= operator.index(tokens)

    def reset(self) -> None:
        """Forget all tokens."""
        with self._lock:
            self._position = 0

    def cache(self, layer: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """Return copies of the keys and values of a layer.

        Parameters
        ----------
        layer : int
            The number of the attention, from 0 on.

        Returns
        -------
        tuple of numpy.ndarray
            Keys and values ``(1, heads, position, head_dim)``, as ONNX has them. What is kept as
            integers becomes float32.
        """
        return self._caches[layer].copies(self._position)

    def _checked(self, ids: Sequence[int]) -> NDArray[np.int64]:
        array = np.asarray(ids)
        if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
            raise InputError(f"expected a sequence of one or more token ids, got {ids!r:.80}")
        if array.min() < 0 or array.max() >= self._decoder.vocabulary:
            wrong = array[(array < 0) | (array >= self._decoder.vocabulary)][0]
            raise InputError(f"{wrong} is no token: the vocabulary has {self._decoder.vocabulary}")
        return array.astype("int64")

    def _check_room(self, count: int = 1) -> None:
        if self._position + count > self._tokens:
            most = self._decoder.limit
            limit = f" (the model takes up to {most})" if most else ""
            raise InputError(
                f"the session has {self._position} of at most {self._tokens} tokens, and {count} "
                f"more do not fit: rewind or reset it, or make one with "
                f"engine.session(tokens=...){limit}"
            )


def step_sessions(sessions: Sequence[Session], ids: Sequence[int]) -> NDArray[np.float32]:
    """Append a token to each of several sessions of an engine.

    All tokens meet a weight while it is in a core's caches, so that up to 16 take little longer
    than one. Each attends to the tokens of its own session.

    Parameters
    ----------
    sessions : sequence of Session
        The sessions, all different.
    ids : sequence of int
        The token of each.

    Returns
    -------
    numpy.ndarray
        float32 ``(sessions, vocabulary)``: the logits behind the token of each. They are those that
        `Session.step` returns, but for the rounding of sums in another order.

    Raises
    ------
    InputError
        If there is not one token a session, a session stands there twice or has no room, sessions
        belong to several engines, or a token is not in the vocabulary. All sessions then stay as
        they were.
    RunError, TargetError, ClosedError
        As `Engine.run` raises them.
    """
    if not sessions or len(sessions) != len(ids):
        raise InputError(
            f"{len(sessions)} sessions and {len(ids)} tokens: there must be one session or more, "
            "and one token for each"
        )
    if len({id(session) for session in sessions}) < len(sessions):
        raise InputError("a session stands there twice: a call appends one token to each")
    if any(session._engine is not sessions[0]._engine for session in sessions):
        raise InputError("the sessions belong to several engines: step those of each in a call")
    tokens = sessions[0]._checked(ids)
    call = sessions[0]._call
    logits, done = [], 0
    with contextlib.ExitStack() as held:
        # All callers take the locks in the same order, so that none waits for another in a ring.
        for session in sorted(sessions, key=id):
            held.enter_context(session._lock)
        for session in sessions:
            session._check_room()
        for rows, used in sessions[0]._decoder.chunks(len(sessions)):
            parts = [
                Part(session._memory, session._position, tokens[i : i + 1])
                for i, session in enumerate(sessions[done : done + used], done)
            ]
            logits.append(call(parts, rows)[:used])
            done += used
        for session in sessions:
            session._position += 1
    return logits[0] if len(logits) == 1 else np.concatenate(logits)
