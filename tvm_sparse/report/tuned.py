"""The results of tuning as a table, as JSON and as a drawing."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from tvm_sparse import files
from tvm_sparse.columns.plans import ColumnPlan, Stops
from tvm_sparse.costs.regions import predict
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.errors import OutputError
from tvm_sparse.records.best import plan_from_fields
from tvm_sparse.records.record import Plan, Record
from tvm_sparse.tuning.tune import Tuned, seconds_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DRAWINGS_IN_A_ROW = 3


def table(tuned: Sequence[Tuned]) -> Table:
    """Return a table of each part's choice and time before and after tuning."""
    result = Table()
    for header in ("network, layer or region", "before", "after"):
        result.add_column(header, overflow="fold")
    for header in ("times", "trials", "failed", "before us", "after us", "gain"):
        result.add_column(header, justify="right")
    for part in tuned:
        outcome = part.outcome
        after, stages = _median(outcome.best), len(part.shape.stages) if part.shape else 1
        result.add_row(
            part.name,
            _choice(outcome.task.plans[0], stages),
            _choice(outcome.best.plan, stages) if outcome.best else "-",
            str(part.count),
            str(outcome.trials),
            str(len(outcome.failures)),
            _us(after * outcome.gain),
            _us(after),
            f"{outcome.gain:.2f}x",
        )
    return result


def summary(tuned: Sequence[Tuned], records: Path) -> str:
    """Return the sums of the table in a line."""
    if not tuned:
        return "the model has neither layers of ours nor tensor columns: nothing to tune"
    lines = []
    for kind, (before, after) in seconds_of(tuned).items():
        gain = before / after if after else 1.0
        lines.append(f"{kind}: {1e6 * before:.0f} us before, {1e6 * after:.0f} us after")
        lines[-1] += f" ({gain:.2f}x)"
    return f"{'; '.join(lines)}; `tvm-sparse compile` finds the records in {records}"


def to_json(tuned: Sequence[Tuned]) -> list[dict[str, Any]]:
    """Return the results as values of JSON."""
    return [
        {
            "region": part.outcome.task.key.structure,
            "kind": part.kind,
            "count": part.count,
            "trials": part.outcome.trials,
            "failures": [record.failure for record in part.outcome.failures],
            "default": dict(part.outcome.task.plans[0]),
            "best": dict(part.outcome.best.plan) if part.outcome.best else None,
            "default_seconds": _median(part.outcome.default),
            "best_seconds": _median(part.outcome.best),
            "gain": part.outcome.gain,
        }
        for part in tuned
    ]


def check_plot(path: Path, read: Iterable[Path] = ()) -> None:
    """Raise an error before the tuning if the drawing cannot be made.

    Parameters
    ----------
    path : Path
        The file to draw to.
    read : iterable of Path
        Files that it may not replace.

    Raises
    ------
    OutputError
        If Matplotlib is missing, the format of `path` is unknown, or `path` cannot be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise OutputError("--plot needs Matplotlib: pip install 'tvm-sparse[plot]'")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise OutputError(f"{path}: the name of a drawing ends in .png, .svg or .pdf")
    files.check_writable(path, read=read)


def plot(tuned: Sequence[Tuned], path: Path, cpu: CpuProfile) -> None:
    """Draw time against column size for every region, measured and predicted.

    Parameters
    ----------
    tuned : sequence of Tuned
        The parts of a model; regions are drawn.
    path : Path
        The file to write.
    cpu : CpuProfile
        The processor that they were planned for; its caches are marked.
    """
    from matplotlib.figure import Figure

    tuned = [region for region in tuned if region.shape]
    rows = max(math.ceil(len(tuned) / _DRAWINGS_IN_A_ROW), 1)
    figure = Figure(figsize=(5 * _DRAWINGS_IN_A_ROW, 3.6 * rows), layout="constrained")
    all_axes = list(figure.subplots(rows, _DRAWINGS_IN_A_ROW, squeeze=False).flat)
    for axes in all_axes:
        axes.set_visible(False)
    for axes, region in zip(all_axes, tuned, strict=False):
        axes.set_visible(True)
        _draw(axes, region, cpu)
    figure.savefig(path)


def _draw(axes: Axes, region: Tuned, cpu: CpuProfile) -> None:
    assert region.shape is not None
    predicted: dict[int, float] = {}
    for candidate in region.candidates:
        if isinstance(candidate.plan, ColumnPlan):
            size = candidate.plan.column_rows
            predicted[size] = min(candidate.seconds, predicted.get(size, math.inf))
    sizes = sorted(predicted)
    axes.plot(sizes, [1e6 * predicted[s] for s in sizes], "--", color="gray", label="predicted")
    points: dict[str, list[tuple[int, float]]] = {}
    stops: list[tuple[str, float]] = []
    for record in region.outcome.records:
        plan, us = plan_from_fields(record.plan), 1e6 * _median(record)
        if isinstance(plan, ColumnPlan):
            points.setdefault(plan.overlap, []).append((plan.column_rows, us))
        elif isinstance(plan, Stops):
            stops.append((_text(plan, len(region.shape.stages)), us))
    for overlap, measured in sorted(points.items()):
        axes.plot(*zip(*measured, strict=True), ".", label=f"measured, {overlap}")
    if stops:
        text, us = min(stops, key=lambda stop: stop[1])
        axes.axhline(us, color="tab:purple", linewidth=0.8, label=f"measured, {text}")
    best = region.outcome.best
    if best is not None and "column_rows" in best.plan:
        at = (int(best.plan["column_rows"]), 1e6 * _median(best))
        axes.plot(*at, "*", color="tab:red", markersize=12, label="best")
    for name, size in _cache_sizes(region, cpu):
        axes.axvline(size, color="tab:green", linewidth=0.8)
        axes.annotate(name, (size, 1), xycoords=("data", "axes fraction"), fontsize=7)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_title(region.name, fontsize=7, wrap=True)
    axes.set_xlabel("rows of a column")
    axes.set_ylabel("us")
    axes.legend(fontsize=7)


def _cache_sizes(region: Tuned, cpu: CpuProfile) -> list[tuple[str, int]]:
    """Return the rows of the largest columns of one step that stay within each cache."""
    assert region.shape is not None
    found = []
    for name, limit in (("L1", cpu.l1_bytes), ("L2", cpu.l2_bytes)):
        fitting = [
            rows
            for rows in range(1, region.shape.height + 1)
            if predict(region.shape, ColumnPlan(rows, rows), cpu).working_set_bytes <= limit
        ]
        if fitting and fitting[-1] < region.shape.height:
            found.append((name, fitting[-1]))
    return found


def _median(record: Record | None) -> float:
    return float(np.median(record.seconds)) if record else math.nan


def _us(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{1e6 * seconds:.1f}"


def _choice(fields: Plan, stages: int) -> str:
    """Return the fields of a plan in words."""
    plan = plan_from_fields(fields)
    if plan is not None:
        return _text(plan, stages)
    values = [f"{name} {value}" for name, value in fields.items() if name != "kernel"]
    return ", ".join([str(fields["kernel"]), *values] if "kernel" in fields else values)


def _text(plan: ColumnPlan | Stops | None, stages: int) -> str:
    if plan is None:
        return "-"
    if isinstance(plan, ColumnPlan):
        return f"{plan.column_rows} rows by {plan.step_rows}, {plan.overlap}"
    if len(plan.before) == stages - 1:
        return "operator by operator"
    return f"stop before operator {', '.join(str(stage + 1) for stage in plan.before)}"
