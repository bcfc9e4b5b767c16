"""A network as one HTML page without other files: what it costs, its layers, and its regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

from tvm_sparse.columns.plans import ColumnPlan, Overlap
from tvm_sparse.costs.best_plan import best_plan
from tvm_sparse.cpu.memory_system import LEVELS
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.this_machine import cpu_name
from tvm_sparse.layer_report import SPARSE
from tvm_sparse.passes.regions.region_planner import PlannedRegion
from tvm_sparse.report.analysis import Analysis, alone_bytes_moved
from tvm_sparse.report.drawing import draw
from tvm_sparse.report.imposed import Imposed
from tvm_sparse.report.layers_table import SCRIPT, layers_table, limits, tabs
from tvm_sparse.report.layers_table import STYLE as TABLE_STYLE
from tvm_sparse.report.measured import MeasuredRegion, Measurement
from tvm_sparse.report.style import STYLE


def render(
    analysis: Analysis,
    measurement: Measurement | None = None,
    gains: Sequence[Imposed] = (),
) -> str:
    """Return the page.

    Parameters
    ----------
    analysis : Analysis
        The compiler's decisions and expectations.
    measurement : Measurement, optional
        The measured times and memory.
    gains : sequence of Imposed
        The model as it is, and with zeros imposed.
    """
    measured = measurement.regions if measurement else {}
    cards = (
        _card(analysis, number, measured.get(number)) for number in range(len(analysis.regions))
    )
    worth = ("Worth pruning?", f"<section>{_gains(gains)}</section>") if gains else None
    title = f"{escape(analysis.model)} on {escape(analysis.cpu.name)}"
    columns = (
        "<details><summary>Tensor columns: which operators run together, row by row</summary>"
        f"{_columns(analysis, measurement)}"
        f"<main><aside>{draw(analysis)}</aside><div>{''.join(cards)}</div></main></details>"
    )
    layers = f"<section><h2>Layers</h2>{layers_table(analysis)}</section>{columns}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}{TABLE_STYLE}</style></head><body>"
        f'<header><h1>{escape(analysis.model)}</h1><p class="faint">for {_where(analysis.cpu)}</p>'
        f"{_headline(analysis, measurement)}"
        f"{tabs(('The model', layers), worth)}</header><script>{SCRIPT}</script>"
        "</body></html>\n"
    )


def _where(cpu: CpuProfile) -> str:
    name = f"this machine, {cpu_name()}" if cpu.name == "native" else f"{cpu.name}, {cpu.mcpu}"
    return f"{escape(name)}, {_threads(cpu.cores)}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _headline(analysis: Analysis, measurement: Measurement | None) -> str:
    """Return what a user asks first: how long, how many layers are sparse, and what limits it."""
    pruned = [layer for layer in analysis.layers if layer.is_pruned]
    dense = [layer for layer in pruned if not layer.is_sparse]
    others = sum(operator.region is None for operator in analysis.operators)
    about = f"an inference on {_threads(analysis.cpu.cores)}"
    left_out = f"without {others} operators of TVM's own schedule" if others else "all operators"
    tiles = [_tile(_us(analysis.seconds), f"expected: {about}", left_out)]
    if measurement:
        tiles.append(_tile(_us(measurement.together.seconds), f"measured: {about}", "the median"))
    zeros = "no layer has enough zeros to count as pruned"
    if pruned:
        zeros = escape(dense[0].reason) if dense else "every pruned layer skips its zeros"
    tiles.append(
        _tile(f"{len(pruned) - len(dense)} of {len(pruned)}", "pruned layers are sparse", zeros)
    )
    tiles.append(_tile(*limits(analysis), ""))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _columns(analysis: Analysis, measurement: Measurement | None) -> str:
    cpu = analysis.cpu
    shared = f", L3 {_bytes(cpu.l3_bytes)}" if cpu.l3_bytes else ""
    caches = f"L1 {_bytes(cpu.l1_bytes)}, L2 {_bytes(cpu.l2_bytes)}{shared}"
    columns = [region for region in analysis.regions if region.plan]
    tiles = [
        _tile(
            f"{analysis.alone_seconds / analysis.seconds:.2f}x" if analysis.seconds else "-",
            "expected gain of tensor columns",
            f"{_us(analysis.seconds)} against {_us(analysis.alone_seconds)} one by one",
        ),
        _tile(
            str(len(columns)),
            "regions of tensor columns",
            f"{sum(len(r.layers) for r in columns)} of {len(analysis.operators)} operators",
        ),
    ]
    beyond = _beyond_l2(analysis)
    tiles.append(
        _tile(
            _bytes(beyond[0]),
            "expected from and to L3 and memory",
            f"{_bytes(beyond[1])} one by one",
        )
    )
    if measurement:
        tiles += _measured_tiles(measurement)
    return (
        f'<p class="faint">{escape(cpu.name)} ({escape(cpu.mcpu)}), {_threads(cpu.cores)}; '
        f"{caches}</p>"
        f'<div class="tiles">{"".join(tiles)}</div>'
        '<p class="faint">A region runs in columns of rows: each core carries a few rows through '
        "all of its operators while they are in its cache. Rows that two columns need are computed "
        "twice: the halo. Between two regions is a cache stop: all rows are written, then read. "
        "Green operators have sparse weights.</p>"
    )


def _measured_tiles(measurement: Measurement) -> list[str]:
    together, alone = measurement.together, measurement.alone
    known = [r.rank_correlation for r in measurement.regions.values()]
    correlations = [value for value in known if value is not None]
    tiles = [
        _tile(
            f"{alone.seconds / together.seconds:.2f}x",
            "measured gain, the whole model",
            f"{_us(together.seconds)} against {_us(alone.seconds)}",
        ),
        _tile(
            _bytes(together.peak_bytes),
            "peak memory of a run, without weights",
            f"{_bytes(alone.peak_bytes)} without tensor columns",
        ),
    ]
    if correlations:
        mean = sum(correlations) / len(correlations)
        about = f"prediction against measurement, {len(correlations)} regions"
        tiles.append(_tile(f"{mean:.2f}", "mean rank correlation over column sizes", about))
    return tiles


def _beyond_l2(analysis: Analysis) -> tuple[float, float]:
    together = sum(sum(r.prediction.bytes_moved[2:]) for r in analysis.regions)
    alone = sum(sum(alone_bytes_moved(r.shape, analysis.cpu)[2:]) for r in analysis.regions)
    return together, alone


def _card(analysis: Analysis, number: int, measured: MeasuredRegion | None) -> str:
    region, cpu = analysis.regions[number], analysis.cpu
    chips = "".join(map(_chip, region.operators, region.layers))
    if region.plan is None:
        return (
            f'<section class="single" id="region-{number}">{number}: {chips} by itself, '
            f"{_us(region.prediction.seconds)}; {escape(region.stop)}</section>"
        )
    plan, cost = region.plan, region.prediction
    about = (
        f"{cost.columns} columns of {plan.column_rows} rows, in steps of {plan.step_rows}; "
        f"overlap: {plan.overlap}; halo: {cost.halo_share:.1%} of the computing is done twice; "
        f"chosen by: {escape(region.source)}"
    )
    times = [
        ("expected, together", cost.seconds, ""),
        ("expected, one by one", region.alone_seconds, "alone"),
    ]
    if measured:
        times.append(("measured, together", measured.seconds, ""))
        times.append(("measured, one by one", measured.alone_seconds, "alone"))
    room = [
        ("working set of a step", cost.working_set_bytes, ""),
        ("rows that a core keeps", cost.scratch_bytes, ""),
    ]
    moved = zip(cost.bytes_moved, alone_bytes_moved(region.shape, cpu), strict=True)
    traffic = [
        (f"{level}, {how}", count, kind)
        for level, counts in zip(LEVELS, moved, strict=True)
        for how, count, kind in zip(("together", "one by one"), counts, ("", "alone"), strict=True)
    ]
    parts = [
        f'<section id="region-{number}"><h2>Region {number}</h2><p>{chips}</p><p>{about}</p>',
        '<div class="pair">',
        _figure("time", _bars(times, max(t for _, t, _ in times), _us)),
        _figure(f"memory, of {_bytes(cpu.l2_bytes)} of L2", _bars(room, cpu.l2_bytes, _bytes)),
        _figure("expected traffic", _bars(traffic, max(t for _, t, _ in traffic), _bytes)),
        _figure("the best plan of each way to treat the overlap", _overlaps(analysis, region)),
        _figure("column sizes", _sizes(measured, plan)) if measured else "",
        f'</div><p class="stop">Cache stop: {escape(region.stop)}.</p></section>',
    ]
    return "".join(parts)


def _gains(gains: Sequence[Imposed]) -> str:
    rows = []
    for gain in gains:
        measured = () if gain.measured_seconds is None else (_us(gain.measured_seconds),)
        name = "as it is" if gain.sparsity is None else f"{gain.sparsity:.0%}"
        sparse = f"{gain.sparse} of {gain.layers}"
        faster = f"{gains[0].best_known_seconds / (gain.best_known_seconds or 1):.2f}x"
        cells = (name, sparse, _us(gain.seconds), *measured, faster)
        rows.append((gain.sparsity is None, cells))
    titles = ("imposed zeros", "sparse layers", "expected", *["measured"] * len(measured), "gain")
    return _table(titles, rows)


def _overlaps(analysis: Analysis, region: PlannedRegion) -> str:
    rows = []
    overlaps: tuple[Overlap, ...] = ("recompute", "carry")
    for overlap in overlaps:
        plan, cost = best_plan(region.shape, analysis.cpu, overlap)
        is_chosen = region.plan is not None and region.plan.overlap == overlap
        cells = (
            overlap,
            f"{cost.columns} x {plan.column_rows}",
            str(plan.step_rows),
            f"{cost.halo_share:.1%}",
            _bytes(cost.scratch_bytes),
            _us(cost.seconds),
        )
        rows.append((is_chosen, cells))
    return _table(("overlap", "columns", "step", "halo", "scratch", "expected"), rows)


def _sizes(measured: MeasuredRegion, own: ColumnPlan) -> str:
    rows = [
        (
            m.plan == own,
            (
                f"{m.plan.column_rows} by {m.plan.step_rows}, {m.plan.overlap}",
                _us(m.predicted),
                _us(m.seconds),
            ),
        )
        for m in sorted(measured.plans, key=lambda m: m.plan.column_rows)
    ]
    correlation = measured.rank_correlation
    note = "" if correlation is None else f"<p>rank correlation {correlation:.2f}</p>"
    return _table(("rows, step", "expected", "measured"), rows) + note


def _table(headers: Sequence[str], rows: Iterable[tuple[bool, Sequence[str]]]) -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(
        f"<tr{' class=chosen' if is_chosen else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for is_chosen, cells in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _bars(
    values: Sequence[tuple[str, float, str]], whole: float, text: Callable[[float], str]
) -> str:
    """Return a bar for each `(label, value, class)`; one of length `whole` is full."""
    return "".join(
        f'<div class="bar {kind}"><span>{escape(label)}</span><div class="track">'
        f'<div class="fill" style="width:{100 * min(value / (whole or 1), 1):.1f}%"></div></div>'
        f"<span>{text(value)}</span></div>"
        for label, value, kind in values
    )


def _figure(caption: str, body: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{body}</figure>"


def _tile(value: str, label: str, about: str) -> str:
    return f'<div class="tile"><b>{value}</b>{label}<div class="faint">{about}</div></div>'


def _chip(operator: str, layer: str) -> str:
    kind = " sparse" if operator.startswith(SPARSE) else ""
    return f'<span class="chip{kind}" title="{escape(layer)}">{escape(operator)}</span>'


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.1f} us" if seconds < 1e-3 else f"{1e3 * seconds:,.2f} ms"


def _bytes(count: float) -> str:
    for unit, size in (("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} B"
