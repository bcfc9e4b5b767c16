"""The lanes of panels that are worth a trial for a network on tokens, and the libraries to run."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tvm
from tvm import relax

from tvm_sparse.compiler import build
from tvm_sparse.cpu.profile import CpuProfile, processor
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.records.best import BY_COST_MODEL, RecordedPlans
from tvm_sparse.records.file import Plan
from tvm_sparse.records.lookups import Lookups, TokenNetwork
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.families import default_kernel
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tuning.devices import Arguments, Build
from tvm_sparse.tuning.layers import kernel_cycles
from tvm_sparse.tuning.libraries import export, write_arguments

MOST_VECTORS = 8
"""Vectors of a block of tokens."""

BUILD_SECONDS = 300.0
"""Limit of a build."""


@dataclass(frozen=True)
class LanesCandidate:
    """Lanes of panels and what the linear layers are expected to cost with them, one by one.

    Attributes
    ----------
    lanes : int
        Tokens of a block.
    seconds : float
        The cost model's prediction, all cores at work.
    """

    lanes: int
    seconds: float


def lanes_candidates(
    network: TokenNetwork, cpu: CpuProfile, hopeless: float
) -> list[LanesCandidate]:
    """Return what to try: the default, then others, those expected to be the fastest first.

    None if one vector holds all tokens.
    """
    if network.tokens <= cpu.vector_lanes:
        return []
    default = cpu.panel_lanes(network.tokens)
    whole = -(-network.tokens // cpu.vector_lanes)
    sizes = {cpu.vector_lanes * count for count in range(1, min(MOST_VECTORS, whole) + 1)}
    found = [LanesCandidate(lanes, _seconds(network, lanes, cpu)) for lanes in {default, *sizes}]
    least = min(candidate.seconds for candidate in found)
    found = [c for c in found if c.lanes == default or c.seconds <= hopeless * least]
    return sorted(found, key=lambda c: (c.lanes != default, c.seconds))


def _seconds(network: TokenNetwork, lanes: int, cpu: CpuProfile) -> float:
    cycles = 0.0
    for batch, tokens, depth, channels, density in network.layers:
        rows = batch * -(-tokens // lanes)
        layer = Layer(Linear(rows, lanes, channels, depth), density)
        cycles += kernel_cycles(layer, default_kernel(layer, cpu), cpu)
    return cycles / cpu.memory_system.clock_hz / cpu.cores


@dataclass(frozen=True)
class NetworkKernel:
    """A whole model.

    Attributes
    ----------
    model : str
        An ONNX file, or a Relax module as JSON.
    shapes : mapping, optional
        Of the inputs that have dynamic dimensions.
    target : str
        Name of the CPU profile.
    threads : int
        Threads of the kernels.
    records : Path
        The records, for a plan that uses them.
    """

    model: str
    shapes: Mapping[str, Sequence[int]] | None
    target: str
    threads: int
    records: Path

    @staticmethod
    def of(
        model: str | os.PathLike[str] | tvm.IRModule,
        shapes: Mapping[str, Sequence[int]] | None,
        folder: Path,
        target: str,
        threads: int,
        records: Path,
    ) -> NetworkKernel:
        """Return a model, which is written to a folder unless it is a file."""
        if isinstance(model, tvm.IRModule):
            path = folder / "network.json"
            path.write_text(tvm.ir.save_json(model))
            return NetworkKernel(str(path), None, target, threads, records)
        return NetworkKernel(str(Path(model).resolve()), shapes, target, threads, records)

    def build(self, plan: Plan) -> Build:
        """Tell how the library is built: with some lanes, with records or without any."""
        shapes = self.shapes and {name: list(shape) for name, shape in self.shapes.items()}
        arguments = {
            "model": self.model,
            "shapes": json.dumps(shapes),
            "plan": dict(plan),
            "records": str(self.records),
            "target": self.target,
            "threads": self.threads,
        }
        return Build(f"{__name__}:build_network", arguments, BUILD_SECONDS)

    def arguments(self, folder: Path, main: relax.Function) -> Arguments:
        """Write what the libraries are called with: random inputs of ``main``."""
        return write_arguments(folder, main, lambda ty: int(ty.shape[-1]) if len(ty.shape) else 1)


def build_network(
    library: Path,
    model: str,
    shapes: str,
    plan: Plan,
    records: str,
    target: str,
    threads: int,
) -> None:
    """Build a model for the virtual machine as a plan says."""
    cpu = processor(target, threads)
    lookups = Lookups()
    lanes = plan.get("lanes")
    if isinstance(lanes, int):
        lookups = Lookups(lanes_for=lambda network: lanes)
    elif plan["choices"] != BY_COST_MODEL:
        known = RecordedPlans.read(Path(records)).lookups_on(cpu)
        lookups = replace(known, refuses=lambda key: False)
    passes = pipeline.pipeline(lookups=lookups)
    export(build(_read(model, shapes), cpu.to_target(), passes), library, cpu)


@functools.lru_cache(maxsize=1)
def _read(model: str, shapes: str) -> tvm.IRModule:
    if model.endswith(".json"):
        return tvm.ir.load_json(Path(model).read_text())
    return import_module(model, json.loads(shapes)).mod
