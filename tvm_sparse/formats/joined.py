"""The packed form of a sparse convolution whose vectors span several rows of an image."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.formats.sparse import SparseLayout, SparseTiling
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.joined_window import JoinedWindow


@dataclass(frozen=True)
class JoinedTiling(SparseTiling):
    """How the sparse weight and the output rows of a convolution with joined rows are cut.

    A tile has `rows` output rows, which vectors cover one after another.

    Attributes
    ----------
    width : int
        Values per vector.
    vectors : int
        The most vectors of a tile that are computed together.
    shifted : bool
        Whether the gathered rows are stored once per horizontal kernel position, see `Window`.
    """

    width: int = 8
    vectors: int = 4
    shifted: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.width, self.vectors) < 1:
            raise ValueError(f"width and vectors must be positive: {self}")


@dataclass(frozen=True)
class JoinedLinearTiling(JoinedTiling):
    """The same for a linear layer on panels of few lanes: a convolution with a kernel of 1x1."""


def joined_window(problem: Conv2d, tiling: JoinedTiling) -> JoinedWindow:
    """Return the memory that the offsets of a packed weight point into."""
    channels = min(tiling.k_block, problem.channels)
    return JoinedWindow(problem, tiling.width, channels, tiling.shifted, tile_rows=tiling.rows)


def joined_layout(problem: Conv2d, tiling: JoinedTiling) -> SparseLayout:
    """Return the layout of a weight ``[Co, C, kh, kw]`` that meets its inputs in such a window.

    Raises
    ------
    ValueError
        If there are several groups, or a tile that the offsets cannot reach.
    """
    return SparseLayout.in_window(problem, joined_window(problem, tiling), tiling)
