"""The inner loops that all sparse kernels share: a group of output channels walks its non-zeros.

The R channels of a group advance side by side, one non-zero of each in a step. A multiply-add has
a latency of 4 cycles and two can start in a cycle, so that fewer than 8 independent accumulators
would leave the units idle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import tvm
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.rates import CACHE_LINE_BYTES
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.formats.sparse import SparseLayout
from tvm_sparse.schedules.emit.buffers import Registers, argument, filled, flat, prefetch, vector
from tvm_sparse.schedules.emit.epilogue import Epilogue

if TYPE_CHECKING:
    from tvm.ir import Expr

    from tvm_sparse.schedules.emit.panel_memory import Tile

PREFETCH_DISTANCE = 512
"""Slots by which a weight is prefetched ahead of its use; measured on a Xeon. Weights are read once
for each row of activations, and come from the L2 or L3 cache."""

NEON_BITS = 128
"""Bits of a NEON vector. Kernels for other processors have longer vectors."""

OFFSETS_OF_LOAD = 4
"""Offsets that one load brings, in a register of 64 bits."""


class SparseArguments:
    """The parameters of a sparse kernel that hold its weight, as in `PackedSparse`.

    Parameters
    ----------
    layout : SparseLayout
        Sizes of the packed weight.
    unit : int
        Floats per unit of an offset.
    width : int
        Values per vector.
    epilogue : Epilogue
        The operators that follow the product.
    dtype : DType
        Type of the weight, the inputs and the outputs.
    """

    def __init__(
        self,
        layout: SparseLayout,
        unit: int,
        width: int,
        epilogue: Epilogue,
        dtype: DType = ACTIVATIONS,
    ) -> None:
        self.layout, self.unit, self.width, self.epilogue = layout, unit, width, epilogue
        self.dtype = dtype
        group = layout.tiling.group
        self.slots = tvm.tirx.Var("slots", "int64")
        self.indptr = argument("indptr", layout.groups + 1, dtype="int32")
        self.channels = argument("channels", layout.groups * group, dtype="int32")
        self.offsets = argument("offsets", self.slots, dtype="uint16")
        self.values = argument("values", self.slots, dtype=dtype)
        self.bias = argument("bias", layout.n, dtype=dtype) if epilogue.bias else None

    def group(self, chunk: Expr, k_block: Expr, g: Expr) -> SparseGroup:
        """Begin the work on a group of a (chunk, K block)."""
        layout = self.layout
        first = (chunk * layout.k_blocks + k_block) * layout.chunk_groups
        return SparseGroup(self, T.bind(first + g))


class SparseGroup:
    """A group of output channels whose non-zeros are walked, perhaps for several tiles."""

    def __init__(self, arguments: SparseArguments, index: Expr) -> None:
        self._arguments = arguments
        self._size = size = arguments.layout.tiling.group
        begin = T.bind(T.Cast("int64", arguments.indptr[index]))
        self._steps = T.bind(T.Cast("int64", arguments.indptr[index + 1]) - begin)
        self._positions = flat(arguments.offsets[begin * size], arguments.slots, "uint16")
        self._weights = flat(arguments.values[begin * size], arguments.slots, arguments.dtype)
        self._channels = [
            T.bind(T.Cast("int64", arguments.channels[index * size + r])) for r in range(size)
        ]

    def multiply(
        self,
        acc: Registers,
        inputs: Any,
        displacements: Sequence[int | Expr],
        out: Tile,
        residual: Tile | None,
        place: Callable[[Expr, int], Sequence[Expr]],
        is_first: bool,
        is_last: bool,
    ) -> None:
        """Compute a tile of outputs: the group's channels times some vectors.

        Parameters
        ----------
        acc : Registers
            At least group times vectors accumulators.
        inputs : Buffer or view of Panels
            Flat memory into which the offsets point.
        displacements : sequence of int or Expr
            Distance of every vector, in floats, from the place that an offset gives.
        out, residual : Tile
            The outputs, which keep the partial sums of K blocks, and the tensor to add to them.
        place : callable
            ``place(channel, v)`` is the index of vector `v` of a channel in both of them.
        is_first, is_last : bool
            Whether this is the first, and the last, K block. With float16, each block is summed
            up from zero: a sum of all channels would lose two to four times as many digits.
        """
        arguments, vectors = self._arguments, len(displacements)
        width, epilogue, dtype = arguments.width, arguments.epilogue, arguments.dtype
        places = [tuple(place(c, v)) for c in self._channels for v in range(vectors)]
        adds_later = dtype != DType.FLOAT32
        for i, here in enumerate(places):
            if not is_first and not adds_later:
                acc[i] = out[here]
            elif is_first and arguments.bias is not None:
                acc[i] = T.Broadcast(arguments.bias[self._channels[i // vectors]], width)
            else:
                acc[i] = filled(0, width, dtype)
        with T.serial(T.int64(0), self._steps) as step:
            for r, (offset, weight) in enumerate(self._load_step(step)):
                for v, displacement in enumerate(displacements):
                    i = r * vectors + v
                    acc[i] = acc[i] + weight * inputs[vector(offset + displacement, width)]
        if not is_first and adds_later:
            for i, here in enumerate(places):
                acc[i] = acc[i] + out[here]
        if is_last and residual is not None:
            for i, here in enumerate(places):
                acc[i] = acc[i] + residual[here]
        for i, here in enumerate(places):
            value = epilogue.activate(T.bind(acc[i])) if is_last else acc[i]
            out.store(value, *here)

    def _load_step(self, step: Expr) -> Iterator[tuple[Expr, Expr]]:
        """Load every channel's next non-zero: its offset in floats, its weight in all lanes.

        With float16 on x86, four offsets of a load gain 6 to 13 %. With float32, where twice as
        many loads of inputs belong to an offset, they gain nothing.
        """
        arguments, dtype = self._arguments, self._arguments.dtype
        by_element = arguments.width * dtype.bits == NEON_BITS
        if not by_element:
            self._hint(step)
        joins = by_element or dtype == DType.FLOAT16
        streams, size = (self._positions, self._weights), self._size
        cut = arguments.unit, arguments.width
        yield from load_step(*streams, step * size, size, *cut, joins=joins, by_element=by_element)

    def _hint(self, step: Expr) -> None:
        """Ask for the weights of later steps.

        A hint takes the place of a load. In float16, hints of every step are 6 to 10 % of the
        loads, so that the steps whose weights share a cache line give one. In float32, where a
        step has twice the bytes, a hint in every step is as fast.
        """
        ahead, dtype = step * self._size + PREFETCH_DISTANCE, self._arguments.dtype
        steps = max(CACHE_LINE_BYTES // dtype.bytes // self._size, 1)
        if dtype == DType.FLOAT32 or steps == 1:
            prefetch(self._positions[ahead])
            prefetch(self._weights[ahead])
            return
        shared = 1 << (steps.bit_length() - 1)
        with T.If(T.EQ(step % shared, T.int64(0))), T.Then():
            prefetch(self._positions[ahead])
            prefetch(self._weights[ahead])


def load_step(
    positions: Any,
    weights: Any,
    first: Expr,
    size: int,
    unit: int,
    width: int,
    *,
    joins: bool,
    by_element: bool,
) -> Iterator[tuple[Expr, Expr]]:
    """Load the offset and the weight, in all lanes, of every channel of a group in a step.

    The loops wait for loads. NEON's multiply-adds and dot products take a weight from an element of
    a vector, so that one load serves four channels. Hints would be loads, too, and ARM's cores
    foresee two streams read in order.

    Parameters
    ----------
    positions, weights : Buffer
        The offsets and the weights of all steps.
    first : Expr
        The place of the first channel in both of them.
    size : int
        Channels of the group.
    unit, width : int
        Elements of a unit of an offset, and lanes of a vector.
    joins : bool
        Whether four offsets come with one load.
    by_element : bool
        Whether four weights do, too.
    """
    for r, count in _pieces(size, OFFSETS_OF_LOAD if joins else 1):
        if count == 1:
            offset = T.bind(T.Cast("int64", positions[first + r]) * unit)
            yield offset, T.bind(T.Broadcast(weights[first + r], width))
            continue
        together = vector(first + r, count)
        bits = T.bind(T.reinterpret(f"uint{16 * count}", positions[together]))
        loaded = T.bind(weights[together]) if by_element else None
        for i in range(count):
            offset = T.bind(T.Cast("int64", (bits >> (16 * i)) & 0xFFFF) * unit)
            if loaded is None:
                yield offset, T.bind(T.Broadcast(weights[first + r + i], width))
            else:  # TVM allows no more lanes out of a shuffle than into it
                yield offset, T.bind(T.Shuffle([loaded] * (width // count), [i] * width))


def _pieces(size: int, longest: int) -> Iterator[tuple[int, int]]:
    """Cut `size` places into powers of two up to `longest`; yields first place and length."""
    first = 0
    while first < size:
        length = min(longest, 1 << (size - first).bit_length() - 1)
        yield first, length
        first += length
