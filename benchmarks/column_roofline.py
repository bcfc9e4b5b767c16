"""How much tensor columns can gain at most, and how much of that they do gain.

There are two upper bounds of off/auto. Both assume the same kernels, no halo, and one parallel loop
for each run of operators:

* accounted: the time of all activations that the cost model finds beyond L2 is subtracted from the
  measured time of `off`, except for activations that enter and leave the network. The time is that
  of their bytes at the full bandwidth that was measured for L3 and memory, as if nothing else ran
  meanwhile. Kernels that wait for latencies lose more time than that; kernels that ask for rows in
  time lose less.
* in rings: the same kernels run with activations that stay in L2 (`column_rings`). The time in
  which TVM's own kernels for concatenations and elementwise operators move data is subtracted by
  accounting.

The gain is at most the larger of the two. Bytes are those of the cost model, which
`columns.py --traffic` compares with a simulated cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tvm
from column_cases import MODES, Case, check_outputs, in_place, race, stages_alone
from column_rings import in_rings
from tvm import relax

from tvm_sparse.bench.arrays import random_inputs
from tvm_sparse.bench.multiply_adds import count_multiply_adds
from tvm_sparse.costs.regions import Prediction, predict_alone
from tvm_sparse.costs.traffic import Distance, caches
from tvm_sparse.cpu.peak_rates import fma_peak
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.cpu.rates import LAUNCH_SECONDS
from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.passes.regions.convolve_images import convolve_images
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.report.analysis import Analysis, analyze

PLAIN = ("concat", "elementwise", "slice_channels")
"""Operators that are our stages in a region, but TVM's kernels outside of one."""

HEADER = (
    "| model | G multiply-adds | ms at FMA peak | MB beyond L2: activations, off | auto | weights, "
    "off | auto | ms of it | off ms | auto ms | in rings ms | auto | of medians | at most "
    "(accounted, in rings) | reached |\n"
    "| --- |" + " ---: |" * 14
)


@dataclass(frozen=True)
class Beyond:
    """Bytes from and to L3 and memory.

    Attributes
    ----------
    l3, memory : float
        Bytes that all cores together move.
    """

    l3: float
    memory: float

    def __add__(self, other: Beyond) -> Beyond:
        return Beyond(self.l3 + other.l3, self.memory + other.memory)

    def __sub__(self, other: Beyond) -> Beyond:
        return Beyond(max(self.l3 - other.l3, 0.0), max(self.memory - other.memory, 0.0))

    @property
    def bytes(self) -> float:
        """The bytes from and to both."""
        return self.l3 + self.memory

    def seconds(self, cpu: CpuProfile) -> float:
        """Return how long all cores take to read them at full bandwidth."""
        _, _, l3, memory = (level.per_core(cpu.cores).read for level in cpu.memory_system.levels)
        return (self.l3 / l3 + self.memory / memory) / cpu.cores


@dataclass(frozen=True)
class Traffic:
    """What a network moves beyond L2, as the cost model accounts for it.

    Attributes
    ----------
    activations, weights : Beyond
        One operator after another.
    column_activations, column_weights : Beyond
        In tensor columns.
    ends : Beyond
        Activations that enter and leave the runs of operators which can be columns.
    plain_seconds : float
        Time of the traffic of `PLAIN` operators, one by one, as the cost model expects it.
    launches, launches_in_rings : int
        Parallel loops that columns could leave out: of `off`, and of what is run in rings.
    """

    activations: Beyond
    weights: Beyond
    column_activations: Beyond
    column_weights: Beyond
    ends: Beyond
    plain_seconds: float
    launches: int
    launches_in_rings: int

    @property
    def removable(self) -> Beyond:
        """Activations that tensor columns could keep near at the very most."""
        return self.activations - self.ends


def account(analysis: Analysis) -> Traffic:
    """Return what a network moves.

    Parameters
    ----------
    analysis : Analysis
        The analysis of a model with the regions of ``columns="auto"``.
    """
    cpu = analysis.cpu
    shapes = list(stages_alone(analysis.alone, cpu))
    confined = list(stages_alone(convolve_images(analysis.alone), cpu))
    alone = [predict_alone(shape, cpu) for shape in shapes]
    together = [region.prediction for region in analysis.regions]
    plain = [
        prediction.traffic_seconds
        for shape, prediction in zip(shapes, alone, strict=True)
        if shape.stages[0].name in PLAIN
    ]
    return Traffic(
        activations=_activations(alone),
        weights=_weights(alone),
        column_activations=_activations(together),
        column_weights=_weights(together),
        ends=_sum(_once(size, cpu) for size in _ends(analysis)),
        plain_seconds=sum(plain),
        launches=max(len(shapes) - 1, 0),
        launches_in_rings=max(len(confined) - 1, 0),
    )


def bounds(off: float, in_rings: float, traffic: Traffic, cpu: CpuProfile) -> tuple[float, float]:
    """Return the upper bounds of off/auto, accounted and in rings.

    Parameters
    ----------
    off, in_rings : float
        Measured seconds.
    traffic : Traffic
        The bytes that are moved.
    cpu : CpuProfile
        This machine.
    """
    accounted = off - traffic.removable.seconds(cpu) - traffic.launches * LAUNCH_SECONDS
    measured = in_rings - traffic.plain_seconds - traffic.launches_in_rings * LAUNCH_SECONDS
    return off / accounted, off / measured


def build(case: Case, cache: Path, threads: int | None) -> None:
    """Compile a case in the modes that are compared, and in rings."""
    for mode in ("off", "auto"):
        case.build(mode, cache, threads, **MODES[mode])
    cpu = replace(native(), cores=threads or native().cores)
    with in_rings(cpu):
        in_place(case, cpu).build("rings", cache, threads, **MODES["off"])


def compare(
    cases: Sequence[Case], cache: Path, threads: int | None, seconds: float, rounds: int
) -> None:
    """Time what `build` left, and print the table."""
    cpu = replace(native(), cores=threads or native().cores)
    peak = fma_peak(cpu) * cpu.cores
    print(HEADER)
    for case in cases:
        records = RecordedPlans()
        traffic = account(analyze(case.source, case.shapes, threads=threads, records=records))
        engines = {name: case.load(name, cache, threads) for name in ("off", "auto", "rings")}
        inputs = random_inputs(engines["off"].inputs)
        check_outputs(case, {name: engines[name] for name in ("off", "auto")}, inputs)
        times = race(engines, inputs, seconds, rounds)
        print(_row(case, traffic, times, peak, cpu), flush=True)


def _row(
    case: Case, traffic: Traffic, times: dict[str, np.ndarray], peak: float, cpu: CpuProfile
) -> str:
    off, auto, rings = (float(times[name].min()) for name in ("off", "auto", "rings"))
    accounted, measured = bounds(off, rings, traffic, cpu)
    most = max(accounted, measured)
    reached = f"{(off / auto - 1) / (most - 1):.0%}" if most > 1.03 else "-"
    work = multiply_adds(case)
    cells = [
        case.name,
        f"{work / 1e9:.2f}" if work else "-",
        f"{2e3 * work / peak:.2f}" if work else "-",
        *(
            f"{1e-6 * moved.bytes:.1f}"
            for moved in (
                traffic.activations,
                traffic.column_activations,
                traffic.weights,
                traffic.column_weights,
            )
        ),
        f"{1e3 * (traffic.activations + traffic.weights).seconds(cpu):.2f}",
        *(f"{1e3 * value:.2f}" for value in (off, auto, rings)),
        f"{off / auto:.2f}x",
        f"{np.median(times['off']) / np.median(times['auto']):.2f}x",
        f"{most:.2f}x ({accounted:.2f}, {measured:.2f})",
        reached,
    ]
    return f"| {' | '.join(cells)} |"


def multiply_adds(case: Case) -> int:
    """Return the multiply-adds at non-zero weights of a model; 0 of a region."""
    if not isinstance(case.source, Path):
        return 0
    model, folder = read_model(case.source)
    bind_shapes(model, case.shapes)
    return count_multiply_adds(model, folder).nonzero


def _activations(predictions: Iterable[Prediction]) -> Beyond:
    return _sum(
        Beyond(p.bytes_moved[2] - p.weights_moved[2], p.bytes_moved[3] - p.weights_moved[3])
        for p in predictions
    )


def _weights(predictions: Iterable[Prediction]) -> Beyond:
    return _sum(Beyond(*p.weights_moved[2:]) for p in predictions)


def _sum(parts: Iterable[Beyond]) -> Beyond:
    return sum(parts, Beyond(0.0, 0.0))


def _ends(analysis: Analysis) -> list[int]:
    """Return the bytes of activations that enter or leave the operators that can be columns."""
    operators, main = analysis.operators, analysis.together["main"]
    calls = [binding.value for block in main.body.blocks for binding in block.bindings]
    arguments = {
        argument
        for call in calls
        if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.GlobalVar)
        for argument in call.args
    }
    inputs = [param for param in main.params if param in arguments]
    inside = [operator.region is not None for operator in operators]
    read_inside, read_outside = set[int](), set[int]()
    for operator in operators:
        (read_outside if operator.region is None else read_inside).update(operator.reads)
    read = read_inside | read_outside
    size = ACTIVATIONS.bytes
    return [size * math.prod(static_shape(param) or ()) for param in inputs] + [
        size * math.prod(operator.shape)
        for i, operator in enumerate(operators)
        if (inside[i] and (i in read_outside or i not in read))
        or (not inside[i] and i in read_inside)
    ]


def _once(size: int, cpu: CpuProfile) -> Beyond:
    """Return the bytes that one pass over an activation of `size` bytes moves from beyond L2."""
    _, _, l3, memory = caches(cpu).levels(Distance(2 * size / cpu.cores, 2 * size))
    return Beyond(size * l3, size * memory)
