"""Attention on row panels: ``o = softmax(scale q k^T + bias) v`` for every head.

A job is a head and a block of `lanes` queries. The queries stay in the lanes throughout, so both
products are outer products of scalars of k or v and a vector over queries, the softmax runs over
keys that lie below each other, and nothing is transposed or reduced across lanes::

    for batch, head, block of queries in parallel:
        scores[j, :] = scale * sum_d k[d, j] q[d, :] + bias[j, :]
        scores[j, :] = exp(scores[j, :] - max_j scores[j, :])
        o[d, :] = sum_j v[d, j] scores[j, :] / sum_j scores[j, :]

The products compute a tile of keys, or of channels d, by all lanes at a time in registers. The
scores of a job are ``key_tokens * lanes`` values. Lanes of k and v behind the last key are not
read.

A thread takes the blocks of a head one after another. Where q, k and v come from beyond L2, each
block asks for its share of the next head's keys and values, and for the queries of the next block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.costs.elementwise import operations_of
from tvm_sparse.costs.vectors import vector_cycles
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import FMA_PER_CYCLE
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.formats.quantization import NOT_ROUNDED, Roundings
from tvm_sparse.schedules.emit import amx
from tvm_sparse.schedules.emit.buffers import argument
from tvm_sparse.schedules.emit.panel_memory import Panels, Tile
from tvm_sparse.schedules.operators.amx_attention_job import AmxAttentionJob
from tvm_sparse.schedules.operators.attention_job import AttentionJob, Element
from tvm_sparse.schedules.operators.half_attention_job import HalfAttentionJob
from tvm_sparse.schedules.operators.panels import panel_rows
from tvm_sparse.schedules.operators.sized_amx_attention_job import SizedAmxAttentionJob
from tvm_sparse.schedules.operators.sized_attention_job import SizedAttentionJob
from tvm_sparse.schedules.operators.sized_half_attention_job import SizedHalfAttentionJob
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.tilings.linear import DENSE_SHARE

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


AMX_SCORE, AMX_PRODUCT, AMX_OPERAND = 20.0, 0.11, 0.5
"""Cycles of attention on AMX: of 32 scores, of 32 scores and a channel of the head, and of a key or
a query and a channel that become part of tiles. Measured on a Xeon of the Sapphire Rapids class,
with heads of 32 to 128 channels and 64 to 384 tokens, within 5 %."""

JOBS_PER_CORE = 4
"""Heads of a core from which on a core computes whole heads, even if some get one head less."""


def attention(
    batch: int,
    tokens: int,
    key_tokens: int,
    heads: int,
    head_dim: int,
    lanes: int,
    scale: float,
    bias_shape: tuple[int, ...] | None,
    cpu: CpuProfile,
    dtype: DType = ACTIVATIONS,
) -> tvm.tirx.PrimFunc:
    """Build the kernel of a multi-head attention, parallel over batch, heads and query blocks.

    Parameters
    ----------
    batch, tokens, key_tokens, heads, head_dim, lanes, scale, bias_shape, cpu, dtype
        As `Attention`.

    Returns
    -------
    PrimFunc
        ``(q [rows, channels, lanes], k [key rows, channels, lanes], v [key rows, channels, lanes],
        [bias], o [rows, channels, lanes])``, panels of type `dtype`, and a float32 bias; for the
        rows see
        `tvm_sparse.schedules.operators.panels.panel_rows`.
    """
    sizes = (batch, tokens, key_tokens, heads, head_dim, lanes)
    return kernel(Attention(*sizes, scale, bias_shape, cpu, dtype))


class Attention(Stage):
    """A multi-head attention, whose rows are blocks of queries and whose chunks are the heads.

    Parameters
    ----------
    batch, tokens, key_tokens : int
        Sequences, and the queries and keys of each.
    heads, head_dim : int
        The channels of a panel are ``heads * head_dim``.
    lanes : int
        Lanes of all panels.
    scale : float
        Factor by which the scores are multiplied.
    bias_shape : tuple of int, optional
        ``(batch or 1, heads or 1, tokens or 1, key_tokens)``, shape of a bias that is added to the
        scores. A query whose bias is -inf for all keys gives NaN.
    cpu : CpuProfile
        Gives the vector length and the number of registers.
    dtype : DType
        Type of the panels.
    roundings : Roundings
        The numbers that scores and weights are rounded to.
    """

    name = "attention"
    chunks_outermost = True

    def __init__(
        self,
        batch: int,
        tokens: int,
        key_tokens: int,
        heads: int,
        head_dim: int,
        lanes: int,
        scale: float,
        bias_shape: tuple[int, ...] | None,
        cpu: CpuProfile,
        dtype: DType = ACTIVATIONS,
        roundings: Roundings = NOT_ROUNDED,
    ) -> None:
        self.roundings = roundings
        self.tokens, self.key_tokens, self.head_dim = tokens, key_tokens, head_dim
        self.scale, self.bias_shape, self.cpu = scale, bias_shape, cpu
        channels = heads * head_dim
        self.tensor = Tensor(batch, panel_rows(1, tokens, lanes), channels, lanes, dtype)
        keys = Tensor(batch, panel_rows(1, key_tokens, lanes), channels, lanes, dtype)
        self.panels = {"q": (self.tensor, RowMap()), "k": (keys, None), "v": (keys, None)}
        self.chunks = heads
        is_float32 = dtype == DType.FLOAT32
        self.kind = AttentionJob if is_float32 else HalfAttentionJob
        if isinstance(key_tokens, Extent) or isinstance(tokens, Extent):
            self.kind = SizedAttentionJob if is_float32 else SizedHalfAttentionJob
        # The matrix unit meets the weights before they are divided by their sum.
        takes_tiles = dtype == DType.FLOAT16 and roundings.is_empty
        if takes_tiles and not AmxAttentionJob.refusal(head_dim, lanes, cpu):
            is_sized = self.kind is SizedHalfAttentionJob
            self.kind = SizedAmxAttentionJob if is_sized else AmxAttentionJob
            self.preparations = (amx.ask_permission,)
            if batch * heads % cpu.cores == 0 or batch * heads >= JOBS_PER_CORE * cpu.cores:
                self.row_block = self.tensor.rows
        self.other_sizes = tokens, key_tokens
        is_sized = bool(self.sizes)
        # Hints gain where the tensors exceed the L2 caches; otherwise they would cost time.
        self.asks_ahead = (
            not is_sized and self.tensor.bytes + 2 * keys.bytes > cpu.cores * cpu.l2_bytes
        )

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare queries, keys, values and the bias."""
        self.q, self.k, self.v = (panels(name) for name in "qkv")
        self.bias: Any = argument("bias", *self.bias_shape) if self.bias_shape else None

    def allocate(self, run_rows: Collection[int]) -> None:
        """Allocate the scores and the accumulators."""
        super().allocate(run_rows)
        sizes = (self.tokens, self.key_tokens, self.head_dim, self.tensor.lanes)
        self.job = self.kind(*sizes, self.cpu, self.roundings)

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of a sequence."""
        with self.each_chunk(chunk) as head:
            self.job.configure()
            self.see_head(image, head)
            for row, _ in self.each_tile(first, end):
                self.see_row(image, head, row, first)
                self._attend(y.tile(image, row), image, head, row)
            self.job.end()

    def see_head(self, image: Expr, head: Expr) -> None:
        """Prepare the keys and values of a head, which are the same for all rows."""
        channel = T.bind(head * self.head_dim)
        self.job.begin(*(self.panels_of(x, image, channel) for x in (self.k, self.v)))

    def see_row(self, image: Expr, head: Expr, row: Expr, first: Expr) -> None:
        """Prepare what a row needs, in a run of rows from `first` on."""

    def panels_of(self, x: Panels, image: Expr, channel: Expr) -> Callable[[Expr], Any]:
        """Return a function that returns the channels of a head, from `channel` on, of a row."""
        size = self.head_dim * self.tensor.lanes
        return lambda row: x.tile(image, row).flat(channel, T.int64(0), size)

    def _attend(self, y: Tile, image: Expr, head: Expr, row: Expr) -> None:
        """Compute a head of a block of queries."""
        channel = T.bind(head * self.head_dim)

        def store(value: Expr, d: Expr, lanes: Expr) -> None:
            y.store(value, 0, channel + d, lanes)

        def ask(key: Expr) -> None:
            share = self.head_dim, key, self.key_tokens
            for x in (self.k, self.v):
                x.tile(image, row).prefetch([0], channel + self.head_dim, *share)
            self.q.tile(image, row).prefetch([1], channel, *share)

        q, k, v = (self.panels_of(x, image, channel) for x in (self.q, self.k, self.v))
        queries, added = q(row), self._bias(image, head, row)
        visited = ask if self.asks_ahead else None
        keys, values = (self.key_panel(panel, row) for panel in (k, v))
        self.job.score(queries, keys, self.scale, added, visited)
        self.job.exponentiate()
        self.job.average(values, store)

    def key_panel(self, panel: Callable[[Expr], Any], row: Expr) -> Callable[[Expr], Any]:
        """Return a function that returns a block of the keys or values that a row attends to."""
        del row
        return panel

    def _bias(self, image: Expr, head: Expr, row: Expr) -> Element | None:
        """Return the elements of the bias, which are added to the scores, if there is one."""
        if not self.bias_shape:
            return None
        outer = [
            index if extent != 1 else T.int64(0)
            for index, extent in zip((image, head), self.bias_shape, strict=False)
        ]
        if self.bias_shape[2] != 1:
            return self.job.gather_bias(lambda i, j: self.bias[*outer, i, j], row)
        return self.job.key_bias(lambda j: self.bias[*outer, 0, j])

    def cycles(self) -> float:
        """Return the compute cycles of all rows, from the nearest cache, summed over cores."""
        tensor = self.tensor
        width = math.gcd(self.tensor.lanes, self.cpu.vector_lanes(self.tensor.dtype))
        vectors = tensor.images * tensor.rows * tensor.lanes // width
        scores = vectors * self.chunks * self.key_tokens
        if issubclass(self.kind, AmxAttentionJob):
            products = scores * (AMX_SCORE + AMX_PRODUCT * self.head_dim)
            return products + AMX_OPERAND * tensor.elements
        products = 2 * scores * self.head_dim / FMA_PER_CYCLE / DENSE_SHARE
        exp = operations_of("exp", tensor.dtype)
        parts = vars(self.roundings).values()
        rounding = sum(map(len, parts)) * operations_of("fake_quantize(1, 0, 0, 1)", tensor.dtype)
        operations = exp + 3 + rounding
        return products + vector_cycles(scores, loads=1, stores=2, operations=operations)

    def run_cycles(self) -> float:
        """Return the cycles in which keys and values become tiles of the matrix unit."""
        is_on_tiles = issubclass(self.kind, AmxAttentionJob)
        return AMX_OPERAND * self.key_tokens * self.tensor.channels if is_on_tiles else 0.0

    def weight_bytes(self) -> int:
        """Return the bytes of the bias."""
        return ACTIVATIONS.bytes * math.prod(self.bias_shape) if self.bias_shape else 0

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        bias = "x".join(map(str, self.bias_shape)) if self.bias_shape else "none"
        rounded = "" if self.roundings.is_empty else " rounded"
        return f"{self.name} heads={self.chunks} keys={self.key_tokens} bias={bias}{rounded}"
