"""Turns comparisons into a terminal table, the README's Markdown table, and JSON."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from tvm_sparse.bench.peers import IN_FLOAT32, OURS
from tvm_sparse.bench.results import Comparison, EngineResult
from tvm_sparse.cpu.this_machine import cpu_name

TITLES = {
    OURS: "tvm-sparse",
    "onnxruntime": "ONNX Runtime",
    "deepsparse": "DeepSparse",
    "openvino": "OpenVINO",
}

SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""The names of precisions in tables."""


def title(measurement: EngineResult) -> str:
    """Return the name of an engine with its precision, for people."""
    name = TITLES[measurement.engine.removesuffix(IN_FLOAT32)]
    precision = SHORT.get(measurement.precision, measurement.precision)
    return f"{name} {precision}".rstrip()


def latency_table(comparison: Comparison) -> Table:
    """Return one comparison, an engine a row, for a terminal of 80 columns.

    Ratios are to our engine, of the fastest runs and of the rounds. FMA is the share of the peak of
    all threads that multiply-adds at non-zero weights reach. The error is relative to the largest
    output, and MB is the peak memory.
    """
    table = Table(
        title=f"{comparison.model}, {_threads(comparison.threads)}",
        title_justify="left",
        caption=_notes(comparison),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("engine", no_wrap=True)
    headers = ("min ms", "median", "p99", "ratio", "rounds", "FMA", "error", "MB")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for measurement in comparison.measurements:
        table.add_row(*_latency_row(comparison, measurement))
    return table


def _latency_row(comparison: Comparison, measurement: EngineResult) -> list[str]:
    name = title(measurement)
    if measurement.failure:
        return [name, _short(measurement)]
    ratio = comparison.ratio(measurement.engine) if measurement.engine != OURS else None
    share = comparison.share_of_peak(measurement.engine)
    error = measurement.output_error
    return [
        name,
        *(f"{1e3 * s:.2f}" for s in (measurement.minimum, measurement.median, measurement.p99)),
        f"{ratio.of_minima:.2f}x" if ratio else "",
        f"{ratio.low:.2f}-{ratio.high:.2f}" if ratio else "",
        f"{share:.0%}" if share is not None else "",
        f"{error:.0e}" if error is not None else "",
        f"{measurement.peak_bytes / 1e6:.0f}" if measurement.peak_bytes else "",
    ]


def _notes(comparison: Comparison) -> str:
    """Return the remarks that do not fit in a row, a line each."""
    lines = [f"{title(m)}: {m.failure}" for m in comparison.measurements if m.failure]
    for m in comparison.measurements:
        if m.compile_seconds:
            lines.append(
                f"{title(m)}: compiled in {m.compile_seconds:.1f} s with "
                f"{m.compile_peak_bytes / 1e9:.1f} GB, library of {m.library_bytes / 1e6:.0f} MB, "
                f"loaded in {m.load_seconds:.2f} s"
            )
    return "\n".join(lines)


def _short(measurement: EngineResult) -> str:
    return measurement.failure.split(":")[0]


def readme_table(comparisons: Sequence[Comparison]) -> str:
    """Return a Markdown table, a model a row, and below it the machine and the versions.

    Times are those of the fastest run, in milliseconds, with their ratios to ours in brackets.
    """
    titles: dict[str, str] = {}  # with the precision, if it is known from any model
    for measurement in (m for c in comparisons for m in c.measurements):
        if measurement.precision or measurement.engine not in titles:
            titles[measurement.engine] = title(measurement)
    engines = list(titles)
    rows = [
        ["model", "threads", *(f"{name} ms" for name in titles.values()), "of FMA peak",
         "compile s", "library MB", "peak MB"]
    ]  # fmt: skip
    rows.append(["---"] + ["---:"] * (len(rows[0]) - 1))
    for comparison in comparisons:
        found = {m.engine: m for m in comparison.measurements}
        cells = [_latency_cell(comparison, found[e]) if e in found else "" for e in engines]
        ours = found.get(OURS)
        share = comparison.share_of_peak(OURS) if ours else None
        details = [""] * 4
        if ours is not None and ours.rounds:
            details = [
                f"{share:.0%}" if share is not None else "",
                f"{ours.compile_seconds:.0f}",
                f"{ours.library_bytes / 1e6:.0f}",
                f"{ours.peak_bytes / 1e6:.0f}",
            ]
        rows.append([comparison.model, str(comparison.threads), *cells, *details])
    versions = {
        TITLES[m.engine.removesuffix(IN_FLOAT32)]: m.version
        for c in comparisons
        for m in c.measurements
        if m.version
    }
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    below = f"{cpu_name()}; {named}; fastest run, batch 1 unless named."
    return "\n".join([*lines, "", below])


def _latency_cell(comparison: Comparison, measurement: EngineResult) -> str:
    if not measurement.rounds:
        return _short(measurement)
    milliseconds = f"{1e3 * measurement.minimum:.1f}"
    if measurement.engine == OURS:
        return f"**{milliseconds}**"
    ratio = comparison.ratio(measurement.engine)
    return f"{milliseconds} ({ratio.of_minima:.1f}x)" if ratio else milliseconds


def to_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return all results, and the machine that gave them, as values of JSON."""
    return {"machine": machine(), "comparisons": [_comparison_json(c) for c in comparisons]}


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    record = dataclasses.asdict(comparison)
    for entry, measurement in zip(record["measurements"], comparison.measurements, strict=True):
        if not measurement.rounds:
            continue
        ratio = comparison.ratio(measurement.engine)
        entry["minimum"], entry["median"] = measurement.minimum, measurement.median
        entry["p99"] = measurement.p99
        entry["share_of_peak"] = comparison.share_of_peak(measurement.engine)
        entry["ratio_to_ours"] = dataclasses.asdict(ratio) if ratio else None
    return record


def machine() -> dict[str, str]:
    """Return processor, system, versions and commit."""
    versions = {
        name: importlib.metadata.version(name)
        for name in ("tvm-sparse", "apache-tvm", "onnxruntime", "numpy")
    }
    return {
        "cpu": cpu_name(), "system": platform.platform(), "python": platform.python_version(),
        "commit": _commit(), **versions,
    }  # fmt: skip


def _commit() -> str:
    """Return the commit of the working tree that this package lies in; empty outside of one."""
    try:
        result = subprocess.run(
            ["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"
