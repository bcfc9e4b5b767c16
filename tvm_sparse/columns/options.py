"""The options of tensor columns: their size, and whether overlapping rows are computed again."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from tvm_sparse.columns.plans import Overlap
from tvm_sparse.errors import InputError

ColumnRows: TypeAlias = Literal["auto", "off"] | int
"""The rows of a column, ``"auto"`` to let the cost model choose regions and columns, or ``"off"``
for no regions."""
OverlapOption: TypeAlias = Overlap | Literal["auto"]
"""``"recompute"``, ``"carry"``, or ``"auto"`` to let the cost model choose."""


def check_column_options(columns: object = "auto", overlap: object = "auto") -> None:
    """Raise an error if `columns` is not `ColumnRows`, or `overlap` no `OverlapOption`.

    Raises
    ------
    InputError
        If an option has a value that is not allowed.
    """
    is_size = isinstance(columns, int) and not isinstance(columns, bool) and columns >= 1
    if not is_size and columns not in ("auto", "off"):
        raise InputError(
            f"columns must be 'auto', 'off' or a number of rows of at least 1, got {columns!r}"
        )
    if overlap not in ("auto", *get_args(Overlap)):
        raise InputError(f"overlap must be 'auto', 'recompute' or 'carry', got {overlap!r}")
