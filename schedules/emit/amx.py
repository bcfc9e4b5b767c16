"""The instructions of Intel's matrix unit AMX, and the permission to use it.

A core has eight tile registers of 16 rows of 64 bytes. `multiply` takes a tile A of 16 rows of 32
bfloat16 values and a tile B of 16 rows of 16 pairs of them, and adds ``sum(A[i, 2 * p + e] *
B[p, 2 * j + e] for all p, e)`` to ``C[i, j]``, which is float32. So A is a piece of a weight, with
the output channels in its rows, and B a piece of a panel whose channels lie in pairs. Of bytes, A
has 64 and B has quads, and C is int32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import scratch

if TYPE_CHECKING:
    from tvm.ir import Expr

TILE_ROWS = 16
"""Rows of a tile register."""
TILE_BYTES = 1024
"""Bytes of a tile register."""
ROW_BYTES = 64
"""Bytes of a row of a tile register."""

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Linux on x86-64: the call, its request, and the processor's state that is asked for."""

NOT_PERMITTED = (
    "the operating system does not let this process use the matrix unit (AMX); compile the model "
    "for a target without it, such as native-amx"
)
"""The error of a library on a system that refuses the matrix unit."""


def ask_permission() -> None:
    """Emit the request to use the tile registers, which ends in a RuntimeError if it is refused.

    Linux grants it to a process with all of its threads, and to its children after a fork. Asking
    again takes less than a microsecond. Without permission, the first tile instruction would end
    the process.
    """
    numbers = (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    refused = T.call_extern("int64", "syscall", *(T.int64(number) for number in numbers))
    with T.Assert(T.EQ(refused, T.int64(0)), NOT_PERMITTED, "RuntimeError"):
        T.evaluate(0)


def configure() -> None:
    """Emit the configuration of this thread's tile registers: all of them are whole."""
    words = [0] * 16
    words[0] = 1  # the palette
    words[4:8] = [ROW_BYTES | ROW_BYTES << 16] * 4  # bytes of a row of each register
    words[12:14] = [int.from_bytes(bytes([TILE_ROWS] * 4), "little")] * 2  # rows of each
    config = scratch(len(words), "uint32")
    for i, word in enumerate(words):
        T.buffer_store(config, T.uint32(word), [T.int64(i)])
    _call("ldtilecfg", T.address_of(config[0]))


def release() -> None:
    """Emit the end of the use of the tile registers, which a thread then need not save."""
    _call("tilerelease")


def zero(tile: int) -> None:
    """Emit that a tile register becomes zero."""
    _call("tilezero", T.int8(tile))


def load(tile: int, start: Expr, row_bytes: int = ROW_BYTES) -> None:
    """Emit the load of a tile whose rows start `row_bytes` after one another."""
    _call("tileloadd64", T.int8(tile), T.address_of(start), T.int64(row_bytes))


def store(tile: int, start: Expr, row_bytes: int = ROW_BYTES) -> None:
    """Emit the store of a tile whose rows start `row_bytes` after one another."""
    _call("tilestored64", T.int8(tile), T.address_of(start), T.int64(row_bytes))


@dataclass(frozen=True)
class Numbers:
    """What the unit multiplies.

    Attributes
    ----------
    weight : str
        The type of the values of a weight in memory.
    per_word : int
        Values of a word of 32 bits.
    sums : str
        The type of the sums.
    instruction : str
        The product of two tiles.
    """

    weight: str
    per_word: int
    sums: str
    instruction: str


BFLOAT16 = Numbers("uint16", 2, "float32", "tdpbf16ps")
BYTES = Numbers("int8", 4, "int32", "tdpbsud")
"""Signed bytes of a weight by unsigned ones of a panel."""


def multiply(numbers: Numbers, sums: int, a: int, b: int) -> None:
    """Emit that the product of tiles `a` and `b` is added to the tile `sums`."""
    _call(numbers.instruction, T.int8(sums), T.int8(a), T.int8(b))


def _call(name: str, *arguments: Any) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))
