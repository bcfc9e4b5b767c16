"""A network drawn from top to bottom, with frames around its regions, as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from html import escape

from tvm_sparse.layer_report import SPARSE
from tvm_sparse.report.analysis import Analysis, OperatorReport

ROW, GAP, TITLE = 24, 10, 18
"""Pixels from one operator to the next, around a frame, and for the title of a frame."""
LEFT, WIDTH = 56, 236
"""Pixels of the space for arcs on the left, and of the width of an operator."""


def draw(analysis: Analysis) -> str:
    """Return an ``<svg>`` element; frames link to ``#region-N``."""
    tops: list[float] = []
    frames: list[str] = []
    y = float(GAP)
    for number, count in _groups(analysis.operators):
        region = analysis.regions[number] if number is not None else None
        is_framed = region is not None and region.plan is not None
        if is_framed:
            frames.append(_frame(analysis, number or 0, y, count))
            y += TITLE + GAP / 2
        tops += [y + ROW * i for i in range(count)]
        y += ROW * count + (GAP * 1.5 if is_framed else 0)
    edges = (_edge(tops, source, i) for i, o in enumerate(analysis.operators) for source in o.reads)
    nodes = map(_node, analysis.operators, tops)
    body = "".join(itertools.chain(frames, edges, nodes))
    size = f'width="{LEFT + WIDTH + 2 * GAP}" height="{y + GAP:.0f}"'
    return f'<svg class="network" {size} role="img" aria-label="the network">{body}</svg>'


def _groups(operators: tuple[OperatorReport, ...]) -> Iterator[tuple[int | None, int]]:
    """Yield each region's number, or None, and how many of its operators follow one another."""
    for number, group in itertools.groupby(operators, key=lambda operator: operator.region):
        yield number, len(list(group))


def _frame(analysis: Analysis, number: int, y: float, count: int) -> str:
    region = analysis.regions[number]
    plan, cost = region.plan, region.prediction
    assert plan is not None
    title = f"{number}: {cost.columns} columns of {plan.column_rows} rows, {plan.overlap}"
    height = TITLE + ROW * count + GAP
    return (
        f'<a href="#region-{number}"><rect class="frame" x="{LEFT - 6}" y="{y:.0f}" '
        f'width="{WIDTH + 12}" height="{height:.0f}" rx="8"/>'
        f'<text class="title" x="{LEFT + 2}" y="{y + 14:.0f}">{escape(title)}</text></a>'
    )


def _node(operator: OperatorReport, y: float) -> str:
    kind = "sparse" if operator.operator.startswith(SPARSE) else "dense"
    kind = kind if operator.region is not None else "other"
    shape = " x ".join(map(str, operator.shape))
    label = operator.operator if len(operator.operator) < 20 else operator.operator[:19] + "…"
    return (
        f'<g class="{kind}"><title>{escape(operator.name)}: {escape(operator.operator)}, '
        f'{shape}</title><rect x="{LEFT}" y="{y:.0f}" width="{WIDTH}" height="{ROW - 5}" rx="4"/>'
        f'<text x="{LEFT + 8}" y="{y + 13:.0f}">{escape(label)}</text>'
        f'<text class="shape" x="{LEFT + WIDTH - 8}" y="{y + 13:.0f}" text-anchor="end">{shape}'
        "</text></g>"
    )


def _edge(tops: list[float], source: int, reader: int) -> str:
    """Return a line between neighbours, or an arc past the operators in between."""
    start, end = tops[source] + ROW - 5, tops[reader]
    if reader == source + 1:
        x = LEFT + WIDTH / 2
        return f'<path class="edge" d="M{x:.0f} {start:.0f}V{end:.0f}"/>'
    start, end = start - (ROW - 5) / 2, end + (ROW - 5) / 2
    reach = LEFT - min(8 + 6 * (reader - source), LEFT - 4)
    curve = f"C{reach} {start:.0f} {reach} {end:.0f} {LEFT} {end:.0f}"
    return f'<path class="edge" d="M{LEFT} {start:.0f}{curve}"/>'
