"""Sizes of a linear layer on panels."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.sizes.tensor import Tensor


@dataclass(frozen=True)
class Linear:
    """A linear layer on panels.

    Attributes
    ----------
    rows, lanes : int
        Panels of the input, and lanes of each panel.
    n, k : int
        Output and input channels.
    dtype : DType
        Type of the panels, and of the products.
    stored : DType, optional
        Type that the weight is stored in, if it is another one.
    """

    rows: int
    lanes: int
    n: int
    k: int
    dtype: DType = ACTIVATIONS
    stored: DType | None = None

    @property
    def weight_dtype(self) -> DType:
        """The type that the weight is stored in."""
        return self.stored or self.dtype

    @property
    def name(self) -> str:
        """Text that names the sizes for people."""
        return f"linear {self.k} > {self.n} @ {self.rows}x{self.lanes}"

    @property
    def key(self) -> str:
        """Text that names the sizes in the tuning records."""
        stored = f" stored={self.stored}" if self.stored else ""
        sizes = f"rows={self.rows} lanes={self.lanes} channels={self.k} out_channels={self.n}"
        return f"linear {sizes}{stored}"

    @property
    def input(self) -> Tensor:
        """The panels that the layer reads."""
        return Tensor(1, self.rows, self.k, self.lanes, self.dtype)

    @property
    def output_lanes(self) -> int:
        """Lanes of an output row that hold results."""
        return self.lanes
