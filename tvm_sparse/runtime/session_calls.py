"""A call of a decoder's function: tokens of one sequence, or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tvm_ffi
from numpy.typing import NDArray

from tvm_sparse.runtime.arrays import to_tensor
from tvm_sparse.runtime.running import RUNNING
from tvm_sparse.sizes.cached_attention import STATE_COLUMNS
from tvm_sparse.sizes.decoder import Decoder, function_name

if TYPE_CHECKING:
    from tvm_sparse.runtime.engine import Engine


class CacheMemory:
    """Where the caches of a sequence are.

    Parameters
    ----------
    caches : sequence of numpy.ndarray
        The caches of keys and values in turn, whose memory stays where it is.
    """

    def __init__(self, caches: Sequence[NDArray[np.generic]]) -> None:
        self.blocks = caches[0].shape[1]
        self.addresses = np.array([cache.ctypes.data for cache in caches], "int64")
        self._alone: dict[int, list[tvm_ffi.Tensor]] = {}

    def alone(self, rows: int) -> list[tvm_ffi.Tensor]:
        """Return the parameters of a call on this sequence only."""
        if rows not in self._alone:
            self._alone[rows] = _places([self], rows)
        return self._alone[rows]


@dataclass(frozen=True)
class Part:
    """The tokens of a sequence in a call.

    Attributes
    ----------
    memory : CacheMemory
        The caches of the sequence.
    position : int
        The position of the first token.
    tokens : numpy.ndarray
        The tokens.
    """

    memory: CacheMemory
    position: int
    tokens: NDArray[np.int64]


class Call:
    """Calls the functions of a decoder.

    Parameters
    ----------
    engine : Engine
        The engine.
    decoder : Decoder
        What is known of its functions.
    """

    def __init__(self, engine: Engine, decoder: Decoder) -> None:
        self._engine, self._decoder = engine, decoder

    def __call__(
        self, parts: Sequence[Part], rows: int, last_only: bool = False
    ) -> NDArray[np.float32]:
        """Return the logits of a call of the function for `rows` tokens, ``(rows, vocabulary)``.

        With `last_only`, there is one part, and they are those behind its last token.
        """
        ids = np.zeros((1, rows), self._decoder.ids)
        tokens = np.concatenate([part.tokens for part in parts])
        ids[0, : len(tokens)] = tokens
        memories = [part.memory for part in parts]
        places = memories[0].alone(rows) if len(parts) == 1 else _places(memories, rows)
        given = [to_tensor(ids), to_tensor(_state(parts, rows)), *places]
        with RUNNING:
            machine = self._engine.usable_machine()
            result = machine.run(given, function_name(rows, last_only))
        return np.from_dlpack(result).astype("float32", copy=False)[0]


def _state(parts: Sequence[Part], rows: int) -> NDArray[np.int32]:
    """Return what `STATE_COLUMNS` describes."""
    state, first = np.zeros((rows, STATE_COLUMNS), "int32"), 0
    for number, part in enumerate(parts):
        count = len(part.tokens)
        own = slice(first, first + count)
        state[own, 0] = np.arange(part.position, part.position + count)
        state[own, 1] = number
        state[number, 2:] = first, count, part.memory.blocks
        first += count
    # Rows without a token read tables of angles, which may have no more positions.
    state[first:, 0], state[first:, 1] = state[first - 1, 0], -1
    return state


def _places(memories: Sequence[CacheMemory], rows: int) -> list[tvm_ffi.Tensor]:
    """Return the addresses of the caches of keys and values, int64 ``(2, rows)`` an attention."""
    places = np.zeros((len(memories[0].addresses), rows), "int64")
    for number, memory in enumerate(memories):
        places[:, number] = memory.addresses
    return [to_tensor(pair) for pair in places.reshape(-1, 2, rows)]
