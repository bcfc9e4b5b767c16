"""The sizes of a linear layer of experts: each row is multiplied by the weight of one of them."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.sizes.linear import Linear


@dataclass(frozen=True)
class ExpertLinear:
    """A layer that multiplies each of some rows by the weight of the expert that it is sent to.

    Attributes
    ----------
    rows : int
        Rows, one for each pair of a token and an expert of it.
    experts : int
        The experts.
    n, k : int
        Output and input channels.
    """

    rows: int
    experts: int
    n: int
    k: int

    @property
    def active(self) -> int:
        """The most experts that rows can be sent to, whose weights are read."""
        return min(self.rows, self.experts)

    @property
    def of_one_expert(self) -> Linear:
        """The layer of one expert, whose rows are spread evenly."""
        return Linear(max(-(-self.rows // self.experts), 1), 1, self.n, self.k)
