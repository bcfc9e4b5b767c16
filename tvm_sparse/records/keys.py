"""The names that structures have in the tuning records.

A key is a line for people and a digest of a text that spells out all that the time depends on. The
texts are written here and in the `key` of sizes, epilogues and stages, field by field. No name of a
class or a module is part of them, so the records outlive a renaming. A change of a text makes the
records of all users worthless; it goes with a new `tvm_sparse.records.record.VERSION`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from tvm_sparse.columns.shapes import Edge, RegionShape, StageShape
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.density import density_bucket
from tvm_sparse.records.lookups import TokenNetwork
from tvm_sparse.records.record import Key, digest
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.tilings.layer import Layer


def key_of(region: RegionShape, cpu: CpuProfile) -> Key:
    """Return the key of a region's records on a processor with all its cores."""
    return key_on(region_key(region), cpu)


def key_on(structure: str, cpu: CpuProfile) -> Key:
    """Return the key of the records of a structure on a processor with all its cores."""
    return Key(structure, target_key(cpu), cpu.cores)


def region_key(region: RegionShape) -> str:
    """Return the key of a region: its operators and its output for people, then a digest."""
    names = []
    for name, alike in itertools.groupby(stage.name for stage in region.stages):
        count = len(list(alike))
        names.append(f"{count} {name}" if count > 1 else name)
    last = region.stages[-1].tensor
    return f"{' > '.join(names)} @ {_tensor(last)} #{digest(region_text(region))}"


def region_text(region: RegionShape) -> str:
    """Return the structure of a region: a line for each stage, then its inputs and outputs.

    The text holds neither weights nor their exact number of zeros.
    """
    return "\n".join(
        [
            *map(_stage, region.stages),
            f"inputs {', '.join(map(_tensor, region.inputs))}",
            f"outputs {', '.join(map(str, region.outputs))}",
        ]
    )


def _stage(stage: StageShape) -> str:
    reads = ", ".join(map(_edge, stage.edges))
    return f"{stage.key}; computes {_tensor(stage.tensor)}; reads {reads}; tile {stage.tiles.rows}"


def _edge(edge: Edge) -> str:
    rows = edge.rows
    if rows is None:
        return f"{edge.source} all rows"
    return (
        f"{edge.source} stride={rows.stride} before={rows.before} after={rows.after} "
        f"factor={rows.factor}"
    )


def _tensor(tensor: Tensor) -> str:
    sizes = f"{tensor.images}x{tensor.rows}x{tensor.channels}x{tensor.lanes}"
    return sizes + _other_than_float32(tensor.dtype)


def _other_than_float32(dtype: DType) -> str:
    return "" if dtype is DType.FLOAT32 else f" {dtype}"


def layer_key(layer: Layer[Any]) -> str:
    """Return the key of a layer: its sizes for people, then a digest."""
    return f"{layer.name} #{digest(layer_text(layer))}"


def layer_text(layer: Layer[Any]) -> str:
    """Return the structure of a layer: its sizes, and a bucket of the density of its weight."""
    problem = layer.problem
    kind = _other_than_float32(problem.dtype)
    if layer.is_quantized:
        kind += f" quantized words {density_bucket(layer.word_density)}"
        kind += " wide" if layer.is_wide else ""
    return f"{problem.key}{kind} {density_bucket(layer.density)}"


def network_key(network: TokenNetwork) -> str:
    """Return the key of the layers on tokens of a network: sizes for people, then a digest."""
    return f"{network.name} #{digest(network_text(network))}"


def network_text(network: TokenNetwork) -> str:
    """Return the structure of the layers on tokens of a network, a line for each."""
    return "\n".join(
        f"batch={batch} tokens={tokens} channels={depth} out_channels={channels} "
        f"{density_bucket(density)}"
        for batch, tokens, depth, channels, density in network.layers
    )


def model_key(layers: Iterable[Layer[Any]]) -> str:
    """Return the key of a model by its layers with constant weights, in the order of execution."""
    texts = [layer_text(layer) for layer in layers]
    return f"model of {len(texts)} layers #{digest(chr(10).join(texts))}"


def target_key(cpu: CpuProfile) -> str:
    """Return what a processor's plans depend on: instructions, private caches, and precision."""
    features = "".join(f" {feature}" for feature in cpu.mattr)
    caches = f"L1 {cpu.l1_bytes // 1024} KB, L2 {cpu.l2_bytes // 1024} KB"
    sizes = f"{cpu.vector_bits} bits, {caches}"
    return f"{cpu.mcpu}{features}, {sizes}{_other_than_float32(cpu.activations)}"
