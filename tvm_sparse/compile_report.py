"""What became of the layers of a model that was compiled: which are sparse, which not, and why.

`Engine.report` holds a `CompileReport`. A pruned layer that no sparse kernel can compute is a
warning, so that no pruned layer is dense in silence. A pruned layer that the cost model expects to
be faster dense is counted in the summary, and is no warning.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm_sparse.records.used import UsedRecords

FILE_LAYERS = "tvm_sparse.file_layers"
"""The module attribute in which a frontend lists the layers of its file, by their names there."""
PRUNED = 0.5
"""The share of zeros from which on a weight counts as pruned."""
SMALLEST = 1000
"""A weight of fewer values than this never counts as pruned: its zeros save no time."""
LOOKED_UP = "its rows are looked up, and nothing is multiplied by its zeros"
"""The reason for which the zeros of an embedding gain nothing."""

_log = logging.getLogger("tvm_sparse")
_NAMED = 3
"""The most layers that one line names; it counts the others."""


@dataclass(frozen=True)
class LayerReport:
    """A layer with a weight.

    Attributes
    ----------
    name : str
        The name of the node in the ONNX file. For a Relax module, and where import made operators
        that the file does not have, it is `binding`.
    operator : str
        The Relax operator, such as ``"nn.conv2d"``; the ONNX operator if none in Relax was found.
    shape : tuple of int
        The shape of its weight.
    density : float or None
        The non-zero fraction of its weight; None if the weight is no constant.
    kernel, reason : str
        The kernel that computes it, and the reason.
    region : int, optional
        The number of its region; None if it is in no region, not even alone.
    binding : str
        The name of its result in the Relax module, by which regions list it.
    is_refused : bool
        Whether the zeros of the layer cannot be used, since no sparse kernel computes it.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    density: float | None
    kernel: str
    reason: str
    region: int | None = None
    binding: str = ""
    is_refused: bool = False

    @property
    def size(self) -> int:
        """The number of elements of its weight."""
        return math.prod(self.shape)

    @property
    def is_sparse(self) -> bool:
        """Whether its kernel skips the zeros."""
        return self.kernel.startswith("sparse")

    @property
    def can_be_pruned(self) -> bool:
        """Whether zeros in its weight could save time: it is not tiny, and no table of rows."""
        return self.size >= SMALLEST and self.reason != LOOKED_UP

    @property
    def is_pruned(self) -> bool:
        """Whether at least half of its weight is zeros, and zeros could save time."""
        return self.can_be_pruned and self.density is not None and 1 - self.density >= PRUNED

    @property
    def is_lost(self) -> bool:
        """Whether its zeros are lost, or would be if the weight has any: this is a warning."""
        is_unknown = self.density is None and self.can_be_pruned
        return self.is_refused and (self.is_pruned or is_unknown) and not self.is_sparse


@dataclass(frozen=True)
class CompileReport:
    """What became of the layers and the operators of a model.

    Attributes
    ----------
    layers : tuple of LayerReport
        The layers with a weight: those of the module in the order of execution, then those of the
        ONNX file that the module computes in another way.
    regions : tuple of mapping
        The plan and the prediction of each region, as the module attribute ``tvm_sparse.regions``
        holds them.
    seconds : float
        The time that the cost model expects for the regions and the layers outside of them.
        Operators that TVM schedules by default are not in it.
    threads : int
        The number of threads that an inference is compiled for.
    records : UsedRecords
        The measured choices that were used.
    precision : str
        What activations are computed in; if the compiler chose it, also why.
    """

    layers: tuple[LayerReport, ...]
    regions: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    seconds: float = 0.0
    threads: int = 1
    records: UsedRecords = field(default_factory=UsedRecords)
    precision: str = "float32"

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each reason for which zeros of pruned layers are lost."""
        lost = [layer for layer in self.layers if layer.is_lost]
        return tuple(_warning(reason, layers) for reason, layers in _grouped(lost).items())

    def __str__(self) -> str:
        """Return in one line how many pruned layers are sparse, precision and expected time."""
        parts = [self._layers()]
        if self.precision != "float32":
            parts.append(self.precision)
        if self.seconds:
            threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            parts.append(f"{1e3 * self.seconds:.3g} ms expected on {threads}")
        return "; ".join(parts)

    def _layers(self) -> str:
        pruned = [layer for layer in self.layers if layer.is_pruned]
        if not pruned:
            return f"no pruned layers among {len(self.layers)} with weights"
        size = sum(layer.size for layer in pruned)
        nonzero = sum(layer.size * (layer.density or 0.0) for layer in pruned)
        dense = [layer for layer in pruned if not layer.is_sparse]
        s = "s" if len(pruned) > 1 else ""
        text = (
            f"{len(pruned) - len(dense)} of {len(pruned)} pruned layer{s} sparse "
            f"({1 - nonzero / size:.1%} zeros)"
        )
        if dense:
            text += f", {len(dense)} dense: {_by_reason(dense)}"
        others = [
            layer.name for layer in self.layers if layer.can_be_pruned and layer not in pruned
        ]
        if others:
            text += f", {len(others)} not pruned: {_listed(others)}"
        return text

    def log(self) -> None:
        """Log the warnings and the summary by the logger ``tvm_sparse``."""
        for warning in self.warnings:
            _log.warning("%s", warning)
        _log.info("%s", self)


def _grouped(layers: Iterable[LayerReport]) -> dict[str, list[LayerReport]]:
    by_reason: dict[str, list[LayerReport]] = {}
    for layer in layers:
        by_reason.setdefault(layer.reason, []).append(layer)
    return by_reason


def _by_reason(layers: Iterable[LayerReport]) -> str:
    groups = _grouped(layers)
    named = [f"{_listed([d.name for d in group])} ({why})" for why, group in groups.items()]
    more = f", and for {len(named) - _NAMED} more reasons" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more


def _warning(reason: str, layers: Sequence[LayerReport]) -> str:
    known = all(layer.density is not None for layer in layers)
    kind = "pruned layer" if known else "layer"
    number = f"{len(layers)} {kind}s are" if len(layers) > 1 else f"a {kind} is"
    return f"{number} not sparse: {_listed([layer.name for layer in layers])}: {reason}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def layer_reports(
    weights: Iterable[Mapping[str, Any]],
    decisions: Iterable[Mapping[str, Any]],
    file_layers: Iterable[Mapping[str, Any]],
    regions: Mapping[str, int],
) -> tuple[LayerReport, ...]:
    """Return what became of every layer with a weight.

    Parameters
    ----------
    weights, decisions, file_layers : iterable of mapping
        The module attributes ``tvm_sparse.weights``, ``tvm_sparse.layers`` and
        ``tvm_sparse.file_layers``.
    regions : mapping of str to int
        The number of the region of each operator that is in one, by the name of its result.
    """
    chosen = {str(decision["layer"]): decision for decision in decisions}
    layers = []
    for weight in weights:
        binding = str(weight["layer"])
        decision = chosen.get(binding)
        density = float(weight["density"])
        layers.append(
            LayerReport(
                name=binding,
                operator=str(weight["operator"]),
                shape=tuple(int(size) for size in weight["shape"]),
                density=None if density < 0 else density,
                kernel=str((decision or weight)["kernel"]),
                reason=str(decision["reason"] if decision else weight["refusal"]),
                region=regions.get(binding),
                binding=binding,
                is_refused=bool(decision["is_refused"] if decision else weight["is_refused"]),
            )
        )
    return _with_names_of_file(layers, list(file_layers))


def _with_names_of_file(
    layers: Sequence[LayerReport], file_layers: Sequence[Mapping[str, Any]]
) -> tuple[LayerReport, ...]:
    """Give layers their names in the file, and append the layers that only the file has.

    A layer is found by its name and its zeros, or by the one where import changed the other.
    """
    found: dict[int, Mapping[str, Any]] = {}
    left = [index for index, layer in enumerate(file_layers) if "fallback" not in layer]
    compiled = tuple(left)
    for names, zeros in ((True, True), (False, True), (True, False)):
        for number, layer in enumerate(layers):
            if number in found:
                continue
            for index in left if zeros else compiled:
                if (not names or _is_named(layer.binding, str(file_layers[index]["layer"]))) and (
                    not zeros or _same_zeros(layer, file_layers[index])
                ):
                    found[number] = file_layers[index]
                    if index in left:
                        left.remove(index)
                    break
    named = [
        dataclasses.replace(layer, name=str(found[number]["layer"])) if number in found else layer
        for number, layer in enumerate(layers)
    ]
    left += sorted(set(range(len(file_layers))) - set(compiled))
    return (*named, *(_only_in_file(file_layers[index]) for index in left))


def _is_named(binding: str, node: str) -> bool:
    """Return whether a Relax variable has the name of a node, perhaps with a number behind it."""
    stem = re.sub(r"\W+", "_", node).strip("_")
    return binding.startswith(stem) and (binding[len(stem) :].isdigit() or binding == stem)


def _same_zeros(layer: LayerReport, file_layer: Mapping[str, Any]) -> bool:
    if layer.density is None or layer.size != math.prod(int(n) for n in file_layer["shape"]):
        return False
    return round(layer.density * layer.size) == int(file_layer["nonzeros"])


def _only_in_file(file_layer: Mapping[str, Any]) -> LayerReport:
    operator = str(file_layer["operator"])
    shape = tuple(int(size) for size in file_layer["shape"])
    is_table = operator == "Gather"
    why = LOOKED_UP if is_table else f"no sparse kernel computes {operator} as it was imported"
    if "fallback" in file_layer:
        why = f"ONNX Runtime runs it: {file_layer['fallback']}"
    return LayerReport(
        name=str(file_layer["layer"]),
        operator=operator,
        shape=shape,
        density=int(file_layer["nonzeros"]) / max(math.prod(shape), 1),
        kernel="ONNX Runtime" if "fallback" in file_layer else "default",
        reason=why,
        is_refused=not is_table,
    )
