"""The first things that a user asks of a model, and its layers as a table that sorts, in HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from tvm_sparse.layer_report import LayerReport
from tvm_sparse.report.analysis import Analysis, alone_predictions

STYLE = """
.sorted th{cursor:pointer}.sorted th:after{content:" \\2195";color:var(--line)}
.sorted td{padding:.3rem .6rem}.sorted th{padding:.3rem .6rem}
.sorted td,.sorted th{vertical-align:top}.sorted td.text{text-align:left;white-space:normal}
.sorted tbody tr:hover{background:var(--other)}.sorted tbody tr:last-child td{border-bottom:0}
.scroll{overflow-x:auto}tr.refused td:first-child{border-left:3px solid var(--alone)}
.sorted{min-width:64rem}.sorted th[data-kind=text]{text-align:left}
.time{position:relative;min-width:9rem}.time i{position:absolute;left:.6rem;top:.25rem;
bottom:.25rem;background:var(--faint);opacity:.3;border-radius:3px}
.time b{position:relative;font-weight:normal}tr.sparse .time i{background:var(--ours);opacity:.55}
.key i{display:inline-block;width:.8rem;height:.8rem;border-radius:3px;margin:0 .3rem 0 .8rem;
vertical-align:-.1rem;background:var(--faint);opacity:.3}.key i.sparse{background:var(--ours);
opacity:.55}
@media(max-width:720px){.sorted{min-width:0;display:block}.sorted thead,.sorted tbody{display:block}
.sorted thead tr{display:flex;flex-wrap:wrap;gap:.3rem;padding-bottom:.5rem}
.sorted thead th{border:1px solid var(--line);border-radius:6px;padding:.1rem .5rem}
.sorted tbody tr{display:grid;grid-template-columns:1fr auto auto;padding:.5rem 0;
border-bottom:1px solid var(--line)}.sorted tbody td{border:0;padding:.05rem .4rem}
.sorted td.name{grid-column:1/-1;font-weight:600;overflow-wrap:anywhere}
.sorted td.operator{display:none}.sorted td.kernel{order:-1}.sorted td.name{order:-2}
.sorted td.time,.sorted td.why{grid-column:1/-1}.sorted td.zeros:after{content:" zeros"}
.sorted td.why{color:var(--faint)}.sorted td:empty{display:none}}
summary{cursor:pointer;font-size:1.05rem;padding:.4rem 0}
.tabs{margin-top:1rem}.tabs>input{position:absolute;opacity:0}
.tabs>label{display:inline-block;padding:.3rem .9rem;
border:1px solid var(--line);border-radius:8px 8px 0 0;cursor:pointer;margin-right:.3rem}
.tabs>.tab{display:none}.tabs>input:checked+label{background:var(--card);font-weight:600}
.tabs>input:focus-visible+label{outline:2px solid var(--ours)}
#tab-0:checked~.tab-0,#tab-1:checked~.tab-1{display:block}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sorted"))
  table.tHead.addEventListener("click", event => {
    const header = event.target.closest("th"), body = table.tBodies[0];
    if (!header) return;
    const down = header.dataset.down !== "1";
    header.dataset.down = down ? "1" : "";
    const value = row => row.cells[header.cellIndex].dataset.value;
    const numeric = header.dataset.kind === "number";
    const order = (a, b) => numeric ? value(a) - value(b) : value(a).localeCompare(value(b));
    body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)));
  });
"""

_HEADERS = (
    ("layer", "text"), ("operator", "text"), ("weight", "number"), ("zeros", "number"),
    ("kernel", "text"), ("expected, by itself", "number"), ("why", "text"),
)  # fmt: skip


def tabs(first: tuple[str, str], second: tuple[str, str] | None) -> str:
    """Return the parts of a page, each a title and a body, of which one is shown."""
    if second is None:
        return first[1]
    heads = "".join(
        f'<input type="radio" name="tabs" id="tab-{number}"{" checked" if number == 0 else ""}>'
        f'<label for="tab-{number}">{escape(title)}</label>'
        for number, (title, _) in enumerate((first, second))
    )
    bodies = "".join(
        f'<div class="tab tab-{number}">{body}</div>'
        for number, (_, body) in enumerate((first, second))
    )
    return f'<div class="tabs">{heads}{bodies}</div>'


def layer_seconds(analysis: Analysis) -> dict[str, float]:
    """Return the expected time of each operator in a region if it ran by itself, by its name."""
    return {
        name: prediction.seconds
        for region in analysis.regions
        for name, prediction in zip(
            region.layers, alone_predictions(region.shape, analysis.cpu), strict=True
        )
    }


def limits(analysis: Analysis) -> tuple[str, str]:
    """Return what takes the largest part of the expected time, as a share and in words."""
    seconds = layer_seconds(analysis)
    whole = sum(seconds.values())
    if not whole:
        return "-", "no operator has an expected time"
    layers = {layer.binding: layer for layer in analysis.layers}
    shares = {"sparse layers": 0.0, "dense layers": 0.0, "operators without weights": 0.0}
    for name, time in seconds.items():
        layer = layers.get(name)
        kind = "operators without weights"
        if layer is not None:
            kind = "sparse layers" if layer.is_sparse else "dense layers"
        shares[kind] += time / whole
    largest = max(shares, key=lambda kind: shares[kind])
    others = ", ".join(
        f"{share:.0%} in {kind}" for kind, share in shares.items() if kind != largest
    )
    return f"{shares[largest]:.0%}", f"of the time is expected in {largest}; {others}"


def layers_table(analysis: Analysis) -> str:
    """Return all layers with a weight as a table that a click on a header sorts."""
    seconds = layer_seconds(analysis)
    longest = max((seconds.get(layer.binding, 0.0) for layer in analysis.layers), default=0.0)
    head = "".join(f'<th data-kind="{kind}">{escape(name)}</th>' for name, kind in _HEADERS)
    rows = "".join(
        f'<tr class="{_kind(layer)}">'
        + "".join(_cells(layer, seconds.get(layer.binding), longest))
        + "</tr>"
        for layer in analysis.layers
    )
    return (
        '<p class="faint key">A click on a heading sorts.<i class="sparse"></i>sparse kernel'
        '<i></i>dense kernel</p><div class="scroll"><table class="sorted">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _kind(layer: LayerReport) -> str:
    if layer.is_sparse:
        return "sparse"
    return "refused" if layer.is_pruned else "dense"


def _cells(layer: LayerReport, seconds: float | None, longest: float) -> Iterator[str]:
    zeros = -1.0 if layer.density is None else 1 - layer.density
    shown = "" if seconds is None else _time(seconds)
    length = (seconds or 0) / (longest or 1)  # of what the number leaves free
    bar = f'<i style="width:calc((100% - 6.2rem) * {length:.3f})"></i><b>{shown}</b>'
    values: Sequence[tuple[object, str, str]] = (
        (layer.name, escape(layer.name), "text name"),
        (layer.operator, escape(layer.operator), "text operator"),
        (layer.size, "x".join(map(str, layer.shape)), ""),
        (zeros, "" if zeros < 0 else f"{zeros:.1%}", "zeros"),
        (layer.kernel, escape(layer.kernel), "text kernel"),
        (seconds or 0, bar if shown else "", "time"),
        (layer.reason, escape(layer.reason), "text why"),
    )
    for value, cell, kind in values:
        yield f'<td class="{kind}" data-value="{escape(str(value))}">{cell}</td>'


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:,.1f} us" if seconds < 1e-3 else f"{1e3 * seconds:,.2f} ms"
