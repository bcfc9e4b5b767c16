"""What a user may ask of tensor columns: their size, and what happens to rows that overlap."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from tvm_sparse.columns.plans import Overlap
from tvm_sparse.errors import InputError

Columns: TypeAlias = Literal["auto", "off"] | int
"""``"auto"``: regions and columns as the cost model says; ``"off"``: none; or rows of a column."""
OverlapOption: TypeAlias = Overlap | Literal["auto"]
"""``"recompute"``, ``"carry"``, or ``"auto"``: as the cost model says."""


def check(columns: object = "auto", overlap: object = "auto") -> None:
    """Refuse what is no `Columns` or no `OverlapOption`.

    Raises
    ------
    InputError
        If it is not.
    """
    is_size = isinstance(columns, int) and not isinstance(columns, bool) and columns >= 1
    if not is_size and columns not in ("auto", "off"):
        raise InputError(
            f"columns must be 'auto', 'off' or a number of rows of at least 1, got {columns!r}"
        )
    if overlap not in ("auto", *get_args(Overlap)):
        raise InputError(f"overlap must be 'auto', 'recompute' or 'carry', got {overlap!r}")
