"""The operators of a function as nodes of regions: their operands and their readers."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tvm import relax

from tvm_sparse.columns.heights import growth_of
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators import layer_of
from tvm_sparse.passes.ir.operators.stages import images_of, operands_of, stage_of
from tvm_sparse.passes.ir.shapes import known_extents
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.schedules.tensor_column import Region
from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.tensor import Tensor


@dataclass(frozen=True, eq=False)
class Node:
    """An operator that can be a stage.

    Attributes
    ----------
    binding : relax.VarBinding
        The call, and the variable it is bound to.
    readers : list of Node
        Operators of the same run that read it.
    is_read_elsewhere : bool
        Whether other expressions read it.
    """

    binding: relax.VarBinding
    readers: list[Node]
    is_read_elsewhere: bool
    _stages: dict[tuple[int, CpuProfile], Stage | None] = field(default_factory=dict)

    def stage(self, images: int, cpu: CpuProfile) -> Stage | None:
        """Return the stage that computes the operator on `images` images, for planning only."""
        if (images, cpu) not in self._stages:
            self._stages[images, cpu] = stage_of(self.binding.value, images, cpu)
        return self._stages[images, cpu]

    @functools.cached_property
    def images(self) -> int | None:
        """The number of images that the operator works on; None if any number will do."""
        return images_of(self.binding.value)

    @functools.cached_property
    def operands(self) -> dict[str, relax.Expr]:
        """The tensors that the operator reads, by name."""
        return operands_of(self.binding.value)

    @property
    def name(self) -> str:
        """Name of the layer, or of the variable if the operator is part of no layer."""
        return layer_of(self.binding.value) or str(self.binding.var.name)


Item: TypeAlias = "relax.Binding | list[Node]"


def order_of(block: relax.DataflowBlock, cpu: CpuProfile) -> list[tuple[relax.Binding, bool]]:
    """Order the bindings so that operators which can be stages follow one another.

    Returns
    -------
    list of (Binding, bool)
        Every binding after those that it reads, with whether it can be a stage.
    """
    waiting = {binding.var: binding for binding in block.bindings}
    is_stage = {
        binding.var: stage_of(binding.value, images_of(binding.value) or 1, cpu) is not None
        for binding in block.bindings
        if isinstance(binding, relax.VarBinding) and isinstance(binding.value, relax.Call)
    }
    blockers = {
        var: {v for v in relax.analysis.free_vars(binding.value) if v in waiting}
        for var, binding in waiting.items()
    }
    readers: dict[relax.Var, list[relax.Var]] = {var: [] for var in waiting}
    for var, needed in blockers.items():
        for source in needed:
            readers[source].append(var)
    ready: list[list[relax.Var]] = [[], []]
    position = {var: i for i, var in enumerate(waiting)}
    for var in waiting:
        if not blockers[var]:
            ready[is_stage.get(var, False)].append(var)
    order = []
    while any(ready):
        # Other operators wait until no stage is ready, so that they interrupt few runs.
        chosen = ready[True] or ready[False]
        var = min(chosen, key=position.__getitem__)
        chosen.remove(var)
        order.append((waiting[var], is_stage.get(var, False)))
        for reader in readers[var]:
            blockers[reader].discard(var)
            if not blockers[reader]:
                ready[is_stage.get(reader, False)].append(reader)
    return order


def runs_of(order: Sequence[tuple[relax.Binding, bool]]) -> Iterator[Item]:
    """Yield runs of operators that can be stages, and the bindings in between."""
    run: list[relax.VarBinding] = []
    uses: dict[relax.Var, list[relax.Var]] = {}
    for binding, _ in order:
        for var in relax.analysis.free_vars(binding.value):
            uses.setdefault(var, []).append(binding.var)
    for binding, is_stage in order:
        if is_stage:
            run.append(binding)
            continue
        if run:
            yield _nodes(run, uses)
        run = []
        yield binding
    if run:
        yield _nodes(run, uses)


def _nodes(run: Sequence[relax.VarBinding], uses: dict[relax.Var, list[relax.Var]]) -> list[Node]:
    nodes: dict[relax.Var, Node] = {}
    own = {binding.var for binding in run}
    for binding in reversed(run):
        readers = uses.get(binding.var, [])
        is_read_elsewhere = not isinstance(binding.var, relax.DataflowVar)
        is_read_elsewhere = is_read_elsewhere or any(var not in own for var in readers)
        inside = [nodes[var] for var in readers if var in own]
        nodes[binding.var] = Node(binding, inside, is_read_elsewhere)
    return list(reversed(nodes.values()))


def region_of(nodes: Sequence[Node], cpu: CpuProfile) -> Region | None:
    """Return operators as a region, for planning only.

    Returns
    -------
    Region or None
        None if the operators work on different numbers of images, or if one of them needs all rows
        of another one.
    """
    known = {node.images for node in nodes if node.images is not None}
    if len(known) > 1:
        return None
    images = next(iter(known), 1)
    stages = [node.stage(images, cpu) for node in nodes]
    results = [node.binding.var for node in nodes]
    return _connect(results, [node.operands for node in nodes], stages, _outputs(nodes))


def _outputs(nodes: Sequence[Node]) -> tuple[int, ...]:
    own = set(nodes)
    return tuple(
        i
        for i, node in enumerate(nodes)
        if node.is_read_elsewhere or any(reader not in own for reader in node.readers)
    )


def build_region(
    bindings: Sequence[relax.VarBinding], outputs: tuple[int, ...], images: int, cpu: CpuProfile
) -> Region | None:
    """Return the region of some bindings, whose `outputs` are used outside, with new stages."""
    stages = [stage_of(binding.value, images, cpu) for binding in bindings]
    results = [binding.var for binding in bindings]
    reads = [operands_of(binding.value) for binding in bindings]
    return _connect(results, reads, stages, outputs)


def _connect(
    results: Sequence[relax.Var],
    reads: Sequence[Mapping[str, relax.Expr]],
    stages: Sequence[Stage | None],
    outputs: tuple[int, ...],
) -> Region | None:
    made = {var: i for i, var in enumerate(results)}
    inputs: dict[relax.Var, int] = {}
    tensors: list[Tensor] = []
    connected: list[Stage] = []
    operands: list[dict[str, int]] = []
    for read, stage in zip(reads, stages, strict=True):
        if stage is None:
            return None
        sources = {}
        for name, (tensor, rows) in stage.panels.items():
            value = read[name]
            if value in made:
                is_image = len(known_extents(value)) == 4  # Scratch memory holds panels only.
                if rows is None or is_image or name in stage.from_outside:
                    return None
                sources[name] = made[value]
                continue
            if value not in inputs:
                inputs[value] = len(inputs)
                tensors.append(tensor)
            sources[name] = -1 - inputs[value]
        connected.append(stage)
        operands.append(sources)
    region = Region(tuple(connected), tuple(operands), tuple(tensors), outputs)
    is_sized = any(isinstance(stage.tensor.rows, Extent) for stage in connected)
    if len(stages) > 1 and is_sized and growth_of(region.shape) is None:
        return None
    return region


def inputs_of(
    bindings: Sequence[relax.VarBinding], region: Region
) -> tuple[list[relax.Expr], list[relax.Expr]]:
    """Return the panels that a region reads, and the other arguments of its stages, in order."""
    panels: dict[int, relax.Expr] = {}
    others: list[relax.Expr] = []
    for binding, stage, sources in zip(bindings, region.stages, region.operands, strict=True):
        for name, value in operands_of(binding.value).items():
            if name not in stage.panels:
                others.append(value)
            elif sources[name] < 0:
                panels[-1 - sources[name]] = value
    return [panels[i] for i in range(len(panels))], others
