"""The forms in which weights of few bits can be packed, and the fastest of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.sizes.block_linear import BlockLinear, Form
from tvm_sparse.tilings.block_rows import (
    BLOCK_ROW_LINEAR_FAMILY,
    SPARSE_BITMAP_FAMILY,
    SPARSE_PAIR_FAMILY,
    SPARSE_WINDOW_FAMILY,
    BlockRowsFamily,
)
from tvm_sparse.tilings.layer import Layer

BLOCK_ROWS_FAMILIES: tuple[BlockRowsFamily, ...] = (
    BLOCK_ROW_LINEAR_FAMILY,
    SPARSE_PAIR_FAMILY,
    SPARSE_WINDOW_FAMILY,
    SPARSE_BITMAP_FAMILY,
)


def block_rows_family(form: Form) -> BlockRowsFamily:
    """Return the family of a form."""
    return next(family for family in BLOCK_ROWS_FAMILIES if family.form == form)


def best_form(problems: Iterable[BlockLinear], cpu: CpuProfile) -> BlockLinear:
    """Return the fastest of several forms of one layer, whatever its rows.

    They are compared on one row and on all cores, and by their bytes if they take the same time.
    Weights come from memory: until the next inference, those of other layers have passed through
    the caches.

    Parameters
    ----------
    problems : iterable of BlockLinear
        The layer in forms that its weight can have, the dense one among them.
    cpu : CpuProfile
        The processor.
    """
    cpu = replace(cpu, l3_bytes=0)

    def price(problem: BlockLinear) -> tuple[float, float]:
        family = block_rows_family(problem.form)
        layer = Layer(replace(problem, rows=1))
        return family.cycles(layer, family.tiling(1, cpu.cores), cpu), family.size(problem)

    able = [
        problem
        for problem in problems
        if not block_rows_family(problem.form).refusal(Layer(replace(problem, rows=1)), cpu)
    ]
    return min(able, key=price)
