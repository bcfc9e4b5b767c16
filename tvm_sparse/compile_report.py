"""What became of the layers of a model that was compiled: which are sparse, which not, and why.

`Engine.report` holds a `CompileReport`. A pruned layer that no sparse kernel can compute is a
warning, so that no pruned layer is dense in silence. A pruned layer that the cost model expects to
be faster dense is counted in the summary, and is no warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm_sparse.layer_report import LayerReport
from tvm_sparse.records.used import UsedRecords

_log = logging.getLogger("tvm_sparse")
_NAMED = 3
"""The most layers that one line names; it counts the others."""


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
    kept_by_tvm : str
        One sentence on the operators that TVM lowers because their sizes are known at run time
        only; empty if there are none.
    padding : str
        Whether padded tokens are computed, and why; empty if the model has none, or nobody asked.
    packed_mask : str
        The input that says which tokens are computed; empty if all are.
    refusal : str
        Why padded tokens cannot be left out that shall be; with it, compiling fails.
    """

    layers: tuple[LayerReport, ...]
    regions: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    seconds: float = 0.0
    threads: int = 1
    records: UsedRecords = field(default_factory=UsedRecords)
    precision: str = "float32"
    kept_by_tvm: str = ""
    padding: str = ""
    packed_mask: str = ""
    refusal: str = field(default="", repr=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each reason for which zeros of pruned layers are lost."""
        lost = [layer for layer in self.layers if layer.is_lost]
        return tuple(_warning(reason, layers) for reason, layers in _grouped(lost).items())

    def __str__(self) -> str:
        """Return in one line how many pruned layers are sparse, precision and expected time."""
        parts = [self._layers()]
        if self.precision != "float32":
            parts.append(self._precision())
        if self.padding:
            parts.append(self.padding)
        if self.seconds:
            threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            parts.append(f"{1e3 * self.seconds:.3g} ms expected on {threads}")
        return "; ".join(parts)

    def _precision(self) -> str:
        if not self.precision.startswith("float16"):
            return self.precision
        others = [
            layer.name
            for layer in self.layers
            if layer.can_be_pruned and layer.precision == "float32"
        ]
        return (
            f"{self.precision}, {len(others)} in float32: {_listed(others)}"
            if others
            else (self.precision)
        )

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
        if self.kept_by_tvm:
            _log.warning("%s", self.kept_by_tvm)
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
