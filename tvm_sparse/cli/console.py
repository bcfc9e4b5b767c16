"""How the command line prints: results as tables or JSON on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tvm_sparse.cli.streams import say, write
from tvm_sparse.cpu.memory_system import LEVELS
from tvm_sparse.errors import printable

if TYPE_CHECKING:
    from pathlib import Path

    from tvm_sparse.cpu.measurement import CpuMeasurement
    from tvm_sparse.cpu.profile import CpuProfile
    from tvm_sparse.int4_weights import Rounded
    from tvm_sparse.layer_report import LayerReport
    from tvm_sparse.pruning import PrunedWeight
    from tvm_sparse.quantization import Quantized
    from tvm_sparse.report.analysis import Analysis
    from tvm_sparse.report.imposed import Imposed
    from tvm_sparse.report.measured import Measurement
    from tvm_sparse.specs import TensorSpec
    from tvm_sparse.tuning.task import Progress

# A pipe has no width; its lines are as long as those of a wide terminal.
_PIPE_WIDTH = 160


def print_json(value: object) -> None:
    """Print a value as JSON."""
    say(json.dumps(value, indent=2))


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal, or as `_PIPE_WIDTH` into a pipe."""
    console = _Console(
        width=None if sys.stdout.isatty() else _PIPE_WIDTH,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip
    with console.capture() as captured:
        console.print(table)
    write(captured.get())


class _Console(Console):
    """A console that prints texts in the cells of tables as `printable` returns them."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


@contextlib.contextmanager
def progress(start: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with a changing line of text while standard error is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    # A `Text` is shown as it is; rich would take brackets in a string for markup.
    with console.status(Text(printable(start))) as status:
        yield lambda text: status.update(Text(printable(text)))


@contextlib.contextmanager
def trials(start: str) -> Iterator[Callable[[Progress | str], None]]:
    """Show a bar of trials, the best time so far and the time left, on a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[best]}"),
    )
    start, hidden = printable(start), not console.is_terminal
    with Bar(*columns, console=console, disable=hidden) as bar:
        task = bar.add_task(start, total=None, best="")

        def update(state: Progress | str) -> None:
            if isinstance(state, str):
                bar.update(task, description=f"{start}: {printable(state)}")
                return
            best = f"best {1e6 * state.best:.0f} us, before {1e6 * state.default:.0f} us"
            bar.update(task, description=start, total=state.total, completed=state.done, best=best)

        yield update


def _table(*headers: str, numbers: Sequence[str] = ()) -> Table:
    table = Table()
    for header in headers:
        right = header in numbers
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    return table


def print_layers(layers: Sequence[LayerReport]) -> None:
    """Print the compiler's decision on every layer."""
    # What all layers have in common needs no column.
    is_mixed = any(layer.precision != "float32" for layer in layers)
    shown = ("kernel", *(["precision"] if is_mixed else []), "region", "why")
    headers = ("layer", "operator", "weight", "sparsity", *shown)
    table = _table(*headers, numbers=["sparsity", "region"])
    for layer in layers:
        shape = "x".join(map(str, layer.shape))
        sparsity = "" if layer.density is None else f"{1 - layer.density:.1%}"
        region = "" if layer.region is None else str(layer.region)
        precision = [layer.precision] if is_mixed else []
        row = (layer.name, layer.operator, shape, sparsity, layer.kernel, *precision)
        table.add_row(*row, region, layer.reason)
    print_table(table)
    size = sum(layer.size for layer in layers)
    nonzero = sum(
        layer.size * (1.0 if layer.density is None else layer.density) for layer in layers
    )
    sparse = sum(layer.is_sparse for layer in layers)
    share = 1 - nonzero / size if size else 0.0
    say(f"{len(layers)} layers, {sparse} sparse; {size / 1e6:.1f} M weights, {share:.1%} zeros")


def print_regions(analysis: Analysis, measurement: Measurement | None = None) -> None:
    """Print the tensor columns of a model, with their expected times and perhaps measured ones."""
    numbers = ["region", "columns", "rows", "step", "halo", "scratch KB", "us", "alone us"]
    if measurement:
        numbers += ["measured us", "measured alone us"]
    headers = ("region", "operators", *numbers[1:4], "overlap", *numbers[4:], "stop")
    table = _table(*headers, numbers=numbers)
    for number, region in enumerate(analysis.regions):
        if region.plan is None:
            continue
        cost, plan = region.prediction, region.plan
        times = [cost.seconds, region.alone_seconds]
        if measurement:
            found = measurement.regions.get(number)
            times += [found.seconds, found.alone_seconds] if found else [math.nan] * 2
        table.add_row(
            str(number),
            " > ".join(region.operators),
            *map(str, (cost.columns, plan.column_rows, plan.step_rows)),
            plan.overlap,
            f"{cost.halo_share:.1%}",
            f"{cost.scratch_bytes / 1024:.0f}",
            *(f"{1e6 * seconds:.1f}" for seconds in times),
            region.stop,
        )
    if not table.rows:
        say("no tensor columns")
        return
    print_table(table)
    alone = len(analysis.regions) - len(table.rows)
    say(
        f"{len(table.rows)} regions of tensor columns and {alone} operators by themselves: "
        f"{1e6 * analysis.seconds:.0f} us expected on {analysis.cpu.name} with "
        f"{analysis.cpu.cores} threads, {1e6 * analysis.alone_seconds:.0f} one by one"
    )
    if measurement:
        together, apart = (
            f"{1e6 * run.seconds:.0f} us and {run.peak_bytes / 1e6:.1f} MB besides weights"
            for run in (measurement.together, measurement.alone)
        )
        say(f"the whole model, measured: {together}; one by one {apart}")


def print_gains(gains: Sequence[Imposed], analysis: Analysis) -> None:
    """Print what a model would gain with more zeros in its weights."""
    is_measured = gains[0].measured_seconds is not None
    numbers = ("zeros", "expected ms", *(["measured ms"] if is_measured else []), "gain")
    table = _table("imposed sparsity", "sparse layers", *numbers, numbers=numbers)
    for gain in gains:
        times = [gain.seconds, *([gain.measured_seconds] if is_measured else [])]
        table.add_row(
            "as it is" if gain.sparsity is None else f"{gain.sparsity:.0%}",
            f"{gain.sparse} of {gain.layers}",
            f"{gain.zeros:.1%}",
            *(f"{1e3 * (seconds or 0):.3f}" for seconds in times),
            f"{gains[0].best_known_seconds / (gain.best_known_seconds or math.inf):.2f}x",
        )
    print_table(table)
    say(
        f"on {analysis.cpu.name} with {analysis.cpu.cores} threads; the smallest weights are set "
        "to zero in one shot, so this shows time, and says nothing about accuracy"
    )


def print_pruned(weights: Sequence[PrunedWeight]) -> None:
    """Print the sparsity of every weight after pruning."""
    table = _table("layer", "elements", "sparsity", "left dense", numbers=["elements", "sparsity"])
    for weight in weights:
        sparsity = f"{weight.zeros / max(weight.size, 1):.1%}"
        table.add_row(weight.layer, str(weight.size), sparsity, weight.kept)
    print_table(table)


def print_quantized(quantized: Quantized) -> None:
    """Print what quantization did to the layers and the outputs of a model."""
    count, kept = len(quantized.layers), len(quantized.kept)
    before, after = (size / 1e6 for size in (quantized.bytes_before, quantized.bytes_after))
    say(f"{count} layers quantized, {kept} kept in float; weights {before:.3g} MB > {after:.3g} MB")
    for name in quantized.kept:
        say(f"kept in float: {name}")
    if not quantized.outputs:
        say("outputs not compared: give inputs by --calibration")
        return
    table = _table("output", "relative error", "largest", numbers=["relative error", "largest"])
    for output in quantized.outputs:
        shares = f"{output.relative_error:.2%}", f"{output.largest_error:.2%}"
        table.add_row(output.name, *shares)
    print_table(table)


def print_rounded(rounded: Rounded, out: Path) -> None:
    """Print what rounding to int4 did to the weights of a model."""
    before, after = (size / 1e6 for size in (rounded.bytes_before, rounded.bytes_after))
    say(f"{out}: {before:.3g} MB > {after:.3g} MB")
    for name in rounded.kept:
        say(f"kept as it was: {name}")
    if rounded.layers:
        worst = max(rounded.layers, key=lambda layer: layer.relative_error)
        zeros = sum(layer.zeros for layer in rounded.layers) / len(rounded.layers)
        say(
            f"{len(rounded.layers)} weights of int4, {zeros:.0%} zeros in the mean; the largest "
            f"change is {worst.relative_error:.2%}, of {worst.node}"
        )


def print_targets(profiles: Sequence[CpuProfile]) -> None:
    """Print CPU profiles."""
    numbers = ("vector bits", "cores", "L1 KB", "L2 KB", "L3 KB")
    table = _table("target", "LLVM cpu", "machine", *numbers, "half", "", numbers=numbers)
    for cpu in profiles:
        sizes = (cpu.l1_bytes, cpu.l2_bytes, cpu.l3_bytes)
        values = (cpu.vector_bits, cpu.cores, *(size // 1024 for size in sizes))
        units = (("fp16", cpu.has_half), ("AMX", cpu.has_matrix_unit))
        half = ", ".join(name for name, has in units if has)
        table.add_row(cpu.name, cpu.mcpu, cpu.architecture, *map(str, values), half, cpu.about)
    print_table(table)


def print_measurement(measurement: CpuMeasurement) -> None:
    """Print sizes, bandwidths and clock of this machine."""
    together = f"all {measurement.cores} cores read GB/s"
    headers = ("size KB", "read GB/s", "read and write GB/s", together)
    table = _table("level", *headers, numbers=headers)
    system = measurement.system
    for name, size, level in zip(
        LEVELS, (*measurement.cache_bytes, None), system.levels, strict=True
    ):
        if size == 0:
            continue
        most = level.shared or level.read * measurement.cores
        rates = (f"{rate / 1e9:.1f}" for rate in (level.read, level.copy, most))
        table.add_row(name, f"{size / 1024:,.0f}" if size else "", *rates)
    print_table(table)
    say(f"{measurement.cpu}: {system.clock_hz / 1e9:.2f} GHz at two multiply-adds a cycle")


def print_tensors(specs: Sequence[TensorSpec]) -> None:
    """Print names, dtypes and shapes."""
    table = _table("name", "dtype", "shape")
    for spec in specs:
        table.add_row(spec.name, spec.dtype, "x".join(map(str, spec.shape)))
    print_table(table)
