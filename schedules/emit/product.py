"""What the products of packed weights and columns of words have in common.

A column is some lanes of a row of panels, with all input channels, of which each word holds several
values. The matrix unit and the dot products of vectors multiply them by words of a weight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.tirx.script import builder as T

from tvm_sparse.schedules.emit.buffers import opaque

if TYPE_CHECKING:
    from tvm.ir import Expr


LEAST_SCRATCH = 1 << 14
"""Elements of the smallest scratch memory, see `HEAP_LEAST_BYTES`."""


@dataclass(frozen=True)
class Part:
    """A part of the words of an output channel.

    Attributes
    ----------
    first : Expr or int
        Its first tile of words.
    tiles : int
        Its tiles of words.
    begins, ends : bool
        Whether it is the first part, and the last one.
    """

    first: Expr | int
    tiles: int
    begins: bool = True
    ends: bool = True


@dataclass(frozen=True)
class Sums:
    """The sums of a block of output channels at a place.

    Attributes
    ----------
    channel : callable
        Returns an output channel, counted from the first of the block.
    channels : Expr
        The number of its output channels.
    columns : tuple of Expr
        The numbers of its columns.
    vector : callable
        Returns the sums of a channel, counted from the first, in one or more columns that follow
        one another, of which the first is counted, too.
    """

    channel: Callable[[Expr], Expr]
    channels: Expr
    columns: tuple[Expr, ...]
    vector: Callable[[Expr, int, int], Expr]


class Product(ABC):
    """The product of a packed weight and columns of words.

    Attributes
    ----------
    column_lanes : int
        Lanes of a column.
    tile_words : int
        Words of a tile; zeros fill up the last tile.
    """

    column_lanes: int
    tile_words: int

    @property
    @abstractmethod
    def weight_bytes(self) -> int:
        """Bytes of the packed weight."""

    @abstractmethod
    def declare_weight(self) -> None:
        """Declare the packed weight."""

    @abstractmethod
    def allocate(self, rows: int) -> None:
        """Allocate the words and the sums of at most `rows` rows of columns."""

    @abstractmethod
    def keep(self, column: Expr, word: Expr, value: Expr) -> None:
        """Store a word of a column, counted from the first that `fill` gets."""

    @abstractmethod
    def compute(
        self,
        rows: Expr,
        chunk: Expr | None,
        fill: Callable[[Part], None],
        store: Callable[[Sums], None],
    ) -> None:
        """Compute the product with rows of columns.

        Parameters
        ----------
        rows : Expr
            The number of rows.
        chunk : Expr, optional
            The chunk to compute; by default, all chunks.
        fill : callable
            Stores the words of a part in all columns, by `keep`; zeros fill up its last tile.
        store : callable
            Stores sums, after the epilogue, in the result.
        """

    def begin(self) -> None:  # noqa: B027
        """Emit what a thread does before its first product: by default, nothing."""

    def end(self) -> None:  # noqa: B027
        """Emit what a thread does after its last product: by default, nothing."""


@contextmanager
def each_of_chunk(chunk: Expr | None, share: int, count: int) -> Iterator[Expr]:
    """Open a loop over the `share` blocks of a chunk, of `count` in all, or over all of them."""
    first, most = T.int64(0), count
    if chunk is not None:
        first, most = T.bind(chunk * share), share
    end = opaque(T.min(T.int64(most), T.int64(count) - first))
    with T.serial(T.int64(0), T.int64(most)) as i, T.If(i < end), T.Then():
        yield T.bind(first + i)
