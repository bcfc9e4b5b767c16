"""What became of a layer of a model that was compiled, and its name in the file of the model."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FILE_LAYERS = "tvm_sparse.file_layers"
"""The module attribute in which a frontend lists the layers of its file, by their names there."""
EXPANDED = "tvm_sparse.expanded"
"""The module attribute that tells, by the layers' names, why weights of few bits became floats."""
PRUNED = 0.5
"""The share of zeros from which on a weight counts as pruned."""
SMALLEST = 1000
"""A weight of fewer values than this never counts as pruned: its zeros save no time."""
SPARSE = ("sparse", "joined")
"""How the names of the kernels begin that skip zeros."""
LOOKED_UP = "its rows are looked up, and nothing is multiplied by its zeros"
"""The reason for which the zeros of an embedding gain nothing."""


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
    precision : str
        What it is computed in: ``"float32"``, ``"float16"``; ``"int8"`` or ``"int16"`` for
        products of integers, whose results are floats; or ``"bfloat16"`` for products on a matrix
        unit, whose sums are of float32 and whose results of float16.
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
    precision: str = "float32"

    @property
    def size(self) -> int:
        """The number of elements of its weight."""
        return math.prod(self.shape)

    @property
    def is_sparse(self) -> bool:
        """Whether its kernel skips the zeros."""
        return self.kernel.startswith(SPARSE)

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
                precision=str((decision or {}).get("precision", "float32")),
            )
        )
    return _with_names_of_file(layers, list(file_layers))


def _with_names_of_file(
    layers: Sequence[LayerReport], file_layers: Sequence[Mapping[str, Any]]
) -> tuple[LayerReport, ...]:
    """Give layers their names in the file, and append the layers that only the file has.

    A layer is found by its name and its zeros, or by the one where import changed the other. The
    parts of a layer that was split are found by the values that they have together.
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
    for numbers in _parts(layers, found):
        nonzeros = sum(round((layers[n].density or 0) * layers[n].size) for n in numbers)
        whole = next((i for i in left if int(file_layers[i]["nonzeros"]) == nonzeros), None)
        if whole is not None:
            found.update(dict.fromkeys(numbers, file_layers[whole]))
            left.remove(whole)
    named = [
        dataclasses.replace(layer, name=str(found[number]["layer"])) if number in found else layer
        for number, layer in enumerate(layers)
    ]
    left += sorted(set(range(len(file_layers))) - set(compiled))
    return (*named, *(_only_in_file(file_layers[index]) for index in left))


def _parts(layers: Sequence[LayerReport], found: Collection[int]) -> Iterable[list[int]]:
    """Return the layers that were not found and whose names only differ in their last digits."""
    groups: dict[str, list[int]] = {}
    for number, layer in enumerate(layers):
        if number not in found:
            groups.setdefault(layer.binding.rstrip("0123456789"), []).append(number)
    return groups.values()


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


class LayersOf(Collection[str]):
    """The layers of a module that come from nodes of an ONNX file, by the names in the module.

    Parameters
    ----------
    nodes : iterable of str
        The names of the nodes.
    """

    def __init__(self, nodes: Iterable[str]) -> None:
        self._nodes = tuple(nodes)

    def __contains__(self, binding: object) -> bool:
        return any(_is_named(str(binding), node) for node in self._nodes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


def with_expanded(layers: Iterable[LayerReport], why: Mapping[str, str]) -> tuple[LayerReport, ...]:
    """Return layers with the reasons for which weights of few bits became floats.

    Parameters
    ----------
    layers : iterable of LayerReport
        The layers.
    why : mapping of str to str
        The module attribute `EXPANDED`.
    """
    return tuple(
        dataclasses.replace(layer, reason=f"{layer.reason}; few bits became floats: {found}")
        if (found := why.get(layer.binding))
        else layer
        for layer in layers
    )


def explained(layers: Iterable[LayerReport], why: Mapping[str, str]) -> tuple[LayerReport, ...]:
    """Return layers with the reasons for which some of them stay in float32.

    Parameters
    ----------
    layers : iterable of LayerReport
        The layers.
    why : mapping of str to str
        The reasons, by the names of the layers.
    """
    return tuple(
        dataclasses.replace(layer, reason=f"{layer.reason}; in float32: {why[layer.name]}")
        if layer.name in why and layer.precision == "float32"
        else layer
        for layer in layers
    )
