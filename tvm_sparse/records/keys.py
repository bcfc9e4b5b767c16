"""What names a structure in the records."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.records.file import Key, digest
from tvm_sparse.tilings.layer import Layer

if TYPE_CHECKING:
    from tvm_sparse.cpu.profile import CpuProfile


def key_of(region: RegionShape, cpu: CpuProfile) -> Key:
    """Return the key of a region's records on a processor with all its cores."""
    return key_on(region_key(region), cpu)


def key_on(structure: str, cpu: CpuProfile) -> Key:
    """Return the key of the records of a structure on a processor with all its cores."""
    return Key(structure, target_key(cpu), cpu.cores)


def region_key(region: RegionShape) -> str:
    """Return a name of a region's structure: operators for people, a digest of the whole.

    Neither weights nor their exact number of zeros are part of it, only what the stages' keys say.
    """
    names = []
    for name, alike in itertools.groupby(stage.name for stage in region.stages):
        count = len(list(alike))
        names.append(f"{count} {name}" if count > 1 else name)
    structure = (
        [(stage.key, stage.tensor, stage.edges, stage.tile) for stage in region.stages],
        region.inputs,
        region.outputs,
    )
    last = region.stages[-1].tensor
    size = f"{last.images}x{last.rows}x{last.channels}x{last.lanes}"
    return f"{' > '.join(names)} @ {size} #{digest(repr(structure))}"


def layer_key(layer: Layer) -> str:
    """Return a name of a layer's structure: sizes for people, a digest of the whole."""
    return f"{layer.name} #{digest(layer.key)}"


def target_key(cpu: CpuProfile) -> str:
    """Return what a processor's plans depend on: its instructions and its private caches."""
    features = "".join(f" {feature}" for feature in cpu.mattr)
    caches = f"L1 {cpu.l1_bytes // 1024} KB, L2 {cpu.l2_bytes // 1024} KB"
    return f"{cpu.mcpu}{features}, {cpu.vector_bits} bits, {caches}"
