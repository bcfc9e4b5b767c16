"""Attention of sentences that lie one after another in panels, without padding between them.

Each sentence begins in a panel of its own. A row of panels knows the first row of its sentence and
how many keys that has, as the prefix sums of FlashAttention's variable lengths do (``cu_seqlens``;
Dao et al., 2022)::

    for head, block of queries in parallel:
        keys and values = rows of panels from first[block] on
        the loops of `attention` over count[block] keys

Tokens behind the keys of their sentence are queries only: nobody attends to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.formats.quantization import NOT_ROUNDED, Roundings
from tvm_sparse.schedules.emit.buffers import argument, opaque
from tvm_sparse.schedules.emit.panel_memory import Panels
from tvm_sparse.schedules.operators.amx_attention_job import AmxAttentionJob
from tvm_sparse.schedules.operators.attention import Attention
from tvm_sparse.schedules.operators.attention_job import AttentionJob
from tvm_sparse.schedules.operators.half_attention_job import HalfAttentionJob
from tvm_sparse.schedules.operators.sized_amx_attention_job import SizedAmxAttentionJob
from tvm_sparse.schedules.operators.sized_attention_job import SizedAttentionJob
from tvm_sparse.schedules.operators.sized_half_attention_job import SizedHalfAttentionJob

if TYPE_CHECKING:
    from tvm.ir import Expr


class PackedAttention(Attention):
    """A multi-head attention within sentences, whose rows are blocks of queries.

    Parameters
    ----------
    rows : int
        Rows of panels of all sentences; usually an `Extent`.
    most_keys : int
        The most keys of a sentence, which decide about scratch memory only.
    heads, head_dim, lanes, scale, cpu, dtype, roundings
        As `Attention` takes them.
    """

    name = "packed_attention"

    def __init__(
        self,
        rows: int,
        most_keys: int,
        heads: int,
        head_dim: int,
        lanes: int,
        scale: float,
        cpu: CpuProfile,
        dtype: DType = ACTIVATIONS,
        roundings: Roundings = NOT_ROUNDED,
    ) -> None:
        sizes = (1, rows * lanes, most_keys, heads, head_dim, lanes)
        super().__init__(*sizes, scale, None, cpu, dtype, roundings)
        self.panels = {name: (self.tensor, seen) for name, (_, seen) in self.panels.items()}
        self.kind = next(of for kind, of in _OF_SENTENCES.items() if issubclass(self.kind, kind))
        self.asks_ahead = False
        self.other_sizes = (most_keys,)

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare queries, keys and values, and what each row knows about its sentence."""
        super().declare(panels)
        self.first, self.count = (
            argument(name, self.tensor.rows, dtype="int32") for name in ("first", "count")
        )

    def see_head(self, image: Expr, head: Expr) -> None:
        """Prepare nothing: each sentence has keys of its own."""

    def see_row(self, image: Expr, head: Expr, row: Expr, first: Expr) -> None:
        """Tell the job how many keys the sentence of a row has, and prepare those of a new one."""
        assert isinstance(self.job, _OfSentence)
        self.job.keys = opaque(T.Cast("int64", self.count[row]))
        begins = T.Or(row == first, T.Cast("int64", self.first[row]) == row)
        with T.If(begins), T.Then():
            channel = T.bind(head * self.head_dim)
            panels = (self.panels_of(x, image, channel) for x in (self.k, self.v))
            self.job.begin(*(self.key_panel(panel, row) for panel in panels))

    def key_panel(self, panel: Callable[[Expr], Any], row: Expr) -> Callable[[Expr], Any]:
        """Return a function that returns a block of the keys or values of a row's sentence."""
        first = opaque(T.Cast("int64", self.first[row]))
        return lambda block: panel(first + block)


class _OfSentence(SizedAttentionJob):
    """A job whose `keys` are counted at run time."""

    keys: Expr

    def key_count(self) -> Expr:
        """Return the number of keys of the sentence."""
        return self.keys


class PackedAttentionJob(_OfSentence):
    """The loops of one head and one block of queries of a sentence."""


class PackedHalfAttentionJob(_OfSentence, SizedHalfAttentionJob):
    """The same on float16 panels."""


class PackedAmxAttentionJob(_OfSentence, SizedAmxAttentionJob):
    """The same on AMX."""


_OF_SENTENCES: dict[type[AttentionJob], type[_OfSentence]] = {
    AmxAttentionJob: PackedAmxAttentionJob,
    HalfAttentionJob: PackedHalfAttentionJob,
    AttentionJob: PackedAttentionJob,
}
"""The first kind of job that is one of these, and what it becomes."""
