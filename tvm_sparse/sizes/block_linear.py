"""Sizes of a linear layer on a few rows whose weight has few bits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tvm_sparse.dtypes import ACTIVATIONS, DType

PLANES = {"int8": 1, "int16": 2}
"""Bytes of the integers that activations are rounded to."""

MOST_ROWS = 16
"""The most rows that kernels of such weights take; from more rows on, floats are as fast."""


class Form(StrEnum):
    """How a weight of few bits is packed."""

    DENSE = "dense"
    """All codes, see `tvm_sparse.formats.groups`."""
    PAIRS = "pairs"
    """Two codes of every four, see `tvm_sparse.formats.pairs`."""
    WINDOWS = "windows"
    """The non-zeros, see `tvm_sparse.formats.sliding`."""
    BITMAPS = "bitmaps"
    """The non-zeros and a bit for each weight, see `tvm_sparse.formats.bitmaps`."""


@dataclass(frozen=True)
class BlockLinear:
    """A product of a few rows and a weight of few bits.

    Attributes
    ----------
    rows : int
        Rows of the input.
    n, k : int
        Output and input channels.
    bits : int
        Bits of a weight's code.
    block : int
        Neighbouring input channels that share a scale.
    activations : str
        What the kernel rounds its input to, with a scale for each block of a row; a key of
        `PLANES`.
    form : Form
        How the weight is packed.
    steps : int
        Steps of a weight in windows, or bytes of the codes of one with bitmaps.
    """

    rows: int
    n: int
    k: int
    bits: int
    block: int
    activations: str = "int16"
    form: Form = Form.DENSE
    steps: int = 0

    @property
    def dtype(self) -> DType:
        """The type of the rows before they are rounded, and of the results."""
        return ACTIVATIONS

    @property
    def blocks(self) -> int:
        """Blocks of a row."""
        return -(-self.k // self.block)

    @property
    def name(self) -> str:
        """Text that names the sizes for people."""
        return f"linear of {self.bits} bits {self.k} > {self.n} @ {self.rows} rows"

    @property
    def key(self) -> str:
        """Text that names the sizes in the tuning records."""
        sizes = f"rows={self.rows} channels={self.k} out_channels={self.n}"
        codes = f"bits={self.bits} block={self.block} activations={self.activations}"
        return f"block_linear {sizes} {codes} form={self.form}"
