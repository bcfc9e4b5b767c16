"""What a model would gain if its weights were pruned, before anybody prunes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_sparse.errors import InputError
from tvm_sparse.files import scratch_folder
from tvm_sparse.pruning import prune
from tvm_sparse.report.analysis import Analysis
from tvm_sparse.report.measured_runs import measure_runs


@dataclass(frozen=True)
class Imposed:
    """A model of which some share of the weights is zero.

    Attributes
    ----------
    sparsity : float or None
        The share that was imposed on every weight that can be pruned; None for the model as it is.
    zeros : float
        The share of zeros in all weights.
    layers, sparse : int
        The layers with a weight, and those whose kernel skips zeros.
    seconds : float
        The expected time of an inference.
    measured_seconds : float or None
        The measured time of an inference; None if it was not measured.
    """

    sparsity: float | None
    zeros: float
    layers: int
    sparse: int
    seconds: float
    measured_seconds: float | None = None

    @property
    def best_known_seconds(self) -> float:
        """The measured time if there is one, else the expected time."""
        return self.seconds if self.measured_seconds is None else self.measured_seconds

    def to_json(self) -> dict[str, Any]:
        """Return the row as values of JSON."""
        return asdict(self)


def check_sparsities(sparsities: Sequence[float]) -> None:
    """Refuse shares that no weight can have.

    Raises
    ------
    InputError
        If one is not above 0 and below 1.
    """
    for sparsity in sparsities:
        if not 0 < sparsity < 1:
            raise InputError(f"sparsity must be above 0 and below 1, got {sparsity}")


def impose(
    model: Path,
    found: Analysis,
    sparsities: Sequence[float],
    analyze: Callable[[Path], Analysis],
    is_measured: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[Imposed, ...]:
    """Return the model as it is, and with zeros imposed as by `tvm_sparse.pruning.prune`.

    Parameters
    ----------
    model : Path
        The ONNX file, which is only read.
    found : Analysis
        Its analysis as it is.
    sparsities : sequence of float
        The shares of zeros.
    analyze : callable
        Analyzes an ONNX file.
    is_measured : bool
        Whether each model is also compiled and measured.
    progress : callable
        Called with a line of text before each step.

    Raises
    ------
    InputError
        If a share is not above 0 and below 1.
    """
    check_sparsities(sparsities)
    rows = [_row(found, None, is_measured)]
    with scratch_folder() as scratch:
        for sparsity in sparsities:
            progress(f"imposing {sparsity:.0%} zeros")
            prune(model, scratch / "model.onnx", sparsity)
            rows.append(_row(analyze(scratch / "model.onnx"), sparsity, is_measured))
    return tuple(rows)


def _row(analysis: Analysis, sparsity: float | None, is_measured: bool) -> Imposed:
    layers = analysis.layers
    size = sum(layer.size for layer in layers) or 1
    nonzero = sum(
        layer.size * (1.0 if layer.density is None else layer.density) for layer in layers
    )
    return Imposed(
        sparsity,
        1 - nonzero / size,
        len(layers),
        sum(layer.is_sparse for layer in layers),
        analysis.seconds,
        measure_runs(analysis)[0].seconds if is_measured else None,
    )
