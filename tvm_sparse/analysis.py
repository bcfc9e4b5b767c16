"""What the compiler does with every layer of a model, and why, without compiling it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm

from tvm_sparse import targets
from tvm_sparse.api import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.measure_sparsity import WEIGHTS
from tvm_sparse.passes.sparsify_weights import LAYERS


@dataclass(frozen=True)
class LayerReport:
    """A layer with a constant weight.

    Attributes
    ----------
    name, operator : str
        Name of the layer in the model, and its Relax operator.
    shape : tuple of int
        Of its weight.
    density : float
        Non-zero fraction of its weight.
    kernel, reason : str
        What computes it, and why.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    density: float
    kernel: str
    reason: str

    @property
    def size(self) -> int:
        """Number of elements of its weight."""
        return math.prod(self.shape)


def analyze(
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Mapping[str, Sequence[int]] | None = None,
    target: str = "native",
) -> tuple[LayerReport, ...]:
    """Report on every layer with a constant weight, in the order of the model.

    Parameters
    ----------
    model, shapes, target
        As `tvm_sparse.compile`.

    Returns
    -------
    tuple of LayerReport

    Raises
    ------
    ModelError, InputError, TargetError
        As `tvm_sparse.compile`.
    """
    cpu = targets.profile(target)
    mod = import_module(model, shapes).mod
    with cpu.to_target():
        passes = [*pipeline.canonicalize(), *pipeline.sparsify(cpu)]
        mod = tvm.transform.Sequential(passes)(mod)
    chosen = {str(layer["layer"]): layer for layer in mod.attrs[LAYERS]}
    reports = []
    for weight in mod.attrs[WEIGHTS]:
        name = str(weight["layer"])
        layer = chosen.get(name, _DEFAULT)
        reports.append(
            LayerReport(
                name,
                str(weight["operator"]),
                tuple(int(size) for size in weight["shape"]),
                float(weight["density"]),
                str(layer["kernel"]),
                str(layer["reason"]),
            )
        )
    return tuple(reports)


_DEFAULT = {"kernel": "default", "reason": "no kernel of ours: TVM's operator, default schedule"}
