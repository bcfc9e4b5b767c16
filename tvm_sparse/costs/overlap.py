"""How many rows a region computes, reads and keeps, before its runs are counted one by one.

The cost models ask for these figures for hundreds of plans, so that they count a few typical steps
in place of all.
"""

from __future__ import annotations

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.rows import ALIKE, rows_needed
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.sizes.tensor import RowMap, Tensor


def expected_scratch_bytes(region: RegionShape, plan: ColumnPlan) -> int:
    """Return about the bytes of intermediate results that a core keeps: those of a middle step.

    `tvm_sparse.columns.memory.scratch_bytes` gives the exact figure, from all runs of the plan.
    """
    start = plan.columns(region) // 2 * plan.column_rows
    start += plan.steps() // 2 * plan.step_rows
    end = min(start + plan.step_rows, region.height)
    needed = rows_needed(region, min(start, end - 1), end)
    oldest = [low for low, _ in needed]
    if plan.overlap == "carry" and plan.steps() > 1:
        done = [high for _, high in rows_needed(region, start - plan.step_rows, start)]
        oldest = [
            min([row, *(seen.first(done[reader]) for reader, seen in readers)])
            for row, readers in zip(done, region.consumers, strict=True)
        ]
    return sum(
        min(high - max(low, 0) + stage.tiles.rows - 1, stage.tensor.rows) * stage.tensor.row_bytes
        for i, (stage, low, (_, high)) in enumerate(zip(region.stages, oldest, needed, strict=True))
        if i not in region.outputs
    )


def column_rows_computed(
    region: RegionShape, plan: ColumnPlan, start: int, end: int
) -> list[float]:
    """Return how many rows each stage computes in the column of rows ``[start, end)``."""
    if plan.overlap == "carry":
        return [high - low for low, high in rows_needed(region, start, end)]
    steps = range(start, end, plan.step_rows)
    # The first and the last step may be at the image's border. Steps between them are alike, but
    # behind strides their rows differ by one, so that a few of them are averaged.
    middle = steps[1:-1]
    sampled = middle[len(middle) // 2 :][:ALIKE] or middle[:ALIKE]
    weights = {steps[0]: 1.0, steps[-1]: 1.0}
    weights.update((first, len(middle) / len(sampled)) for first in sampled)
    total = [0.0] * len(region.stages)
    for first, count in weights.items():
        needed = rows_needed(region, first, min(first + plan.step_rows, end))
        total = [t + count * (high - low) for t, (low, high) in zip(total, needed, strict=True)]
    return total


def rows_read(seen: RowMap | None, rows: float, source: Tensor) -> tuple[float, float]:
    """Return how many rows of an operand a step reads for `rows` rows of the result.

    Parameters
    ----------
    seen : RowMap, optional
        The rows of the operand that an output row sees; None: all of them.
    rows : float
        Rows of the result.
    source : Tensor
        The operand.

    Returns
    -------
    (float, float)
        Rows that no step before has read, and rows that the step before read as well.
    """
    if seen is None:
        return source.rows, 0.0
    window, advance = seen.before + seen.after, seen.stride / seen.factor
    if window <= advance:
        return rows * window, 0.0
    return rows * advance, window - advance
