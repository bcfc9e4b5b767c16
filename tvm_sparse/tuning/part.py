"""What all parts of a model have in common that the tuner finds the best plans for."""

from __future__ import annotations

import collections
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tvm

from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.sparsify.constant_layers import ConstantLayer, constant_layers
from tvm_sparse.passes.sparsify.token_network import token_network
from tvm_sparse.records.file import Key
from tvm_sparse.records.keys import key_on, layer_key
from tvm_sparse.records.lookups import Lookups
from tvm_sparse.tilings import families
from tvm_sparse.tuning.layers import LayerKernel
from tvm_sparse.tuning.ranking import kernel_candidates
from tvm_sparse.tuning.task import Task

if TYPE_CHECKING:
    from tvm_sparse.tuning.regions import RegionCandidate

LEAST_TRIALS = 4
"""Trials of what hardly takes part of the model's time, if the level is quick."""


@dataclass(frozen=True)
class Part:
    """What one choice is made for by measuring.

    Attributes
    ----------
    kind : str
        A network's lanes, a layer's kernel, a region's plan, or a model with or without all these.
    task : Task
        What to try, the cost model's choice first.
    count : int
        Layers or regions of the model that have this structure.
    shape : RegionShape, optional
        Stages of a region.
    candidates : tuple of RegionCandidate
        Plans of a region with their predictions, in the order of the task.
    """

    kind: Literal["lanes", "layers", "regions", "model"]
    task: Task
    count: int = 1
    shape: RegionShape | None = None
    candidates: tuple[RegionCandidate, ...] = ()

    @property
    def name(self) -> str:
        """Operators and extents."""
        return self.task.name


@dataclass(frozen=True)
class Setting:
    """What all tasks have in common.

    Attributes
    ----------
    target : str
        Name of the CPU profile.
    cpu : CpuProfile
        `processor` of the target and the threads.
    folder : Path
        Where files of the tasks go.
    most : int
        Most trials of a task.
    hopeless : float
        How many times as long as the best a candidate may be expected to take.
    """

    target: str
    cpu: CpuProfile
    folder: Path
    most: int
    hopeless: float

    def own_folder(self) -> Path:
        """Make a folder for one task."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def share(self, seconds: float, mean: float) -> int:
        """Return the most trials of a task: where little time is spent, little is to be gained."""
        share = max(round(self.most * seconds / mean), min(self.most, LEAST_TRIALS))
        return min(self.most, share)


def name_of(key: Key) -> str:
    """Return the part of a key that people read."""
    return key.structure.partition(" #")[0]


def layer_tasks(mod: tvm.IRModule, lookups: Lookups, setting: Setting) -> list[Part]:
    """Return the kernels to choose of every layer, the most time-consuming layers first.

    Parameters
    ----------
    mod : IRModule
        The model, from `canonical`.
    lookups : Lookups
        The lanes that were measured.
    setting : Setting
        What all tasks have in common.
    """
    cpu = setting.cpu
    lanes = lookups.lanes_for(token_network(mod, cpu))
    own_cpu = replace(cpu, token_lanes=lanes or 0)
    counts: collections.Counter[str] = collections.Counter()
    layers: dict[str, ConstantLayer] = {}
    for own in constant_layers(mod, own_cpu):
        counts[layer_key(own.layer)] += 1
        layers.setdefault(layer_key(own.layer), own)
    plans = {
        key: kernel_candidates(own.layer, cpu, setting.hopeless) for key, own in layers.items()
    }
    seconds = {key: counts[key] * plans[key][0].seconds for key in layers}
    mean = float(np.mean(list(seconds.values()))) if seconds else 0.0
    found: list[Part] = []
    for key in sorted(layers, key=lambda key: -seconds[key]):
        layer, weight = layers[key].layer, layers[key].weight
        chosen = plans[key][: setting.share(seconds[key], mean) + 1]
        kernel = LayerKernel.write(layer, weight, setting.own_folder(), setting.target, cpu.cores)
        task = Task(
            layer.name,
            key_on(key, cpu),
            tuple(families.to_fields(candidate.tiling) for candidate in chosen),
            kernel.build,
            kernel.arguments(),
        )
        found.append(Part("layers", task, counts[key]))
    return found
