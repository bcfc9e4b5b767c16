"""What the tuner tries for a model: lanes, kernels of layers, plans of regions, and all of that."""

from __future__ import annotations

import collections
import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tvm

from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.sparsify.constant_layers import ConstantLayer, constant_layers
from tvm_sparse.passes.sparsify.token_network import model_key, token_network
from tvm_sparse.records.best import BY_COST_MODEL, to_fields
from tvm_sparse.records.file import Key, digest
from tvm_sparse.records.keys import key_of, key_on, layer_key, network_key
from tvm_sparse.records.lookups import Lookups
from tvm_sparse.tilings import families
from tvm_sparse.tuning.devices import Arguments
from tvm_sparse.tuning.lanes import NetworkKernel, lanes_candidates
from tvm_sparse.tuning.layers import LayerKernel, kernel_candidates
from tvm_sparse.tuning.regions import (
    Candidate,
    RegionKernel,
    candidates,
    one_by_one,
    write_region,
)
from tvm_sparse.tuning.trials import Store, Task

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
    candidates : tuple of Candidate
        Plans of a region with their predictions, in the order of the task.
    """

    kind: Literal["lanes", "layers", "regions", "model"]
    task: Task
    count: int = 1
    shape: RegionShape | None = None
    candidates: tuple[Candidate, ...] = ()

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


def lanes_tasks(
    mod: tvm.IRModule, kernel: NetworkKernel, arguments: Arguments, setting: Setting
) -> list[Part]:
    """Return the task to choose lanes, unless there is nothing to choose.

    Parameters
    ----------
    mod : IRModule
        The model, from `canonical`.
    kernel : NetworkKernel
        The same to build.
    arguments : Arguments
        What it is called with.
    setting : Setting
        What all tasks have in common.
    """
    cpu = setting.cpu
    network = token_network(mod, cpu)
    plans = lanes_candidates(network, cpu, setting.hopeless)[: setting.most + 1]
    if len(plans) < 2:
        return []
    task = Task(
        network.name,
        key_on(network_key(network), cpu),
        tuple({"lanes": plan.lanes} for plan in plans),
        kernel.build,
        arguments,
    )
    return [Part("lanes", task)]


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


def region_tasks(
    formed: Sequence[tuple[tvm.IRModule, Mapping[str, RegionShape]]],
    setting: Setting,
    done: Collection[Key] = (),
) -> list[Part]:
    """Return every structure of a model's regions, the most time-consuming first.

    Parameters
    ----------
    formed : sequence of (IRModule, mapping of str to RegionShape)
        The model in regions, as `form_regions` returns it; the first one as it would be compiled.
    setting : Setting
        What all tasks have in common.
    done : collection of Key
        Regions to leave out.
    """
    cpu = setting.cpu
    regions: dict[Key, _Region] = {}
    for i, (mod, named) in enumerate(formed):
        keys = {name: key_of(shape, cpu) for name, shape in named.items()}
        counts = collections.Counter(keys.values())
        for name, key in keys.items():
            if key not in regions:
                plans = candidates(named[name], cpu, setting.hopeless, is_formed=i == 0)
                regions[key] = _Region(mod, name, named[name], counts[key], plans)
    mean = float(np.mean([region.seconds for region in regions.values()])) if regions else 0.0
    found: list[Part] = []
    for key, region in sorted(regions.items(), key=lambda item: -item[1].seconds):
        if key in done:
            continue
        chosen = tuple(region.plans[: setting.share(region.seconds, mean) + 1])
        folder = setting.own_folder()
        weights = write_region(region.mod, region.name, folder)
        kernel = RegionKernel(region.shape, folder, setting.target, cpu.cores)
        task = Task(
            _name(key),
            key,
            tuple(to_fields(candidate.plan) for candidate in chosen),
            kernel.build,
            kernel.arguments(weights),
            references=(to_fields(one_by_one(region.shape)),),
        )
        found.append(Part("regions", task, region.count, region.shape, chosen))
    return found


def model_task(
    mod: tvm.IRModule,
    store: Store,
    keys: Sequence[Key],
    kernel: NetworkKernel,
    arguments: Arguments,
    setting: Setting,
) -> Part:
    """Return the task to tell whether the model as a whole is faster with the records.

    Parameters
    ----------
    store : Store
        The records.
    keys : sequence of Key
        What of them the model uses; if that changes, the model is measured again.
    mod, kernel, arguments, setting
        As of `lanes_tasks`.
    """
    best = [store.records.best(key) for key in keys]
    used = sorted(f"{r.key.structure} {json.dumps(r.plan, sort_keys=True)}" for r in best if r)
    key = key_on(model_key(mod, setting.cpu), setting.cpu)
    plans = {"choices": BY_COST_MODEL}, {"choices": f"records {digest(''.join(used))}"}
    return Part("model", Task(_name(key), key, plans, kernel.build, arguments))


@dataclass(frozen=True)
class _Region:
    """A region of a module, and its plans."""

    mod: tvm.IRModule
    name: str
    shape: RegionShape
    count: int
    plans: Sequence[Candidate]

    @property
    def seconds(self) -> float:
        return self.count * self.plans[0].seconds


def _name(key: Key) -> str:
    """Return the part of a key that is for people."""
    return key.structure.partition(" #")[0]
