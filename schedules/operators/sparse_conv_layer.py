"""The base of the sparse convolutions: what follows from the packed weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from tvm_sparse.formats.density import density_bucket
from tvm_sparse.formats.sparse import SparseLayout
from tvm_sparse.schedules.emit.sparse_walk import SparseArguments
from tvm_sparse.schedules.operators.layer import ConvStage
from tvm_sparse.tilings.family import Family
from tvm_sparse.tilings.layer import Layer


class SparseConvStage(ConvStage):
    """A sparse convolution; subclasses set the attributes.

    Attributes
    ----------
    family : Family
        The kernel family, which knows the cycles.
    layout : SparseLayout
        The sizes of the packed weight; its tiling is that of the layer.
    density : float
        Non-zero fraction of the weight; only the costs depend on it.
    """

    family: ClassVar[Family[Any, Any]]
    layout: SparseLayout
    density: float
    tiling: Any

    def declare_weight(self) -> None:
        """Declare the packed weight and the bias."""
        dtype = self.problem.dtype
        self.weight = SparseArguments(self.layout, 1, self.tiling.width, self.epilogue, dtype)

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        layer, one_core = Layer(self.problem, self.density), replace(self.cpu, cores=1)
        product = self.family.cycles(layer, self.tiling, one_core)
        return product + self.epilogue.cycles(self.tensor, self.cpu)

    def weight_bytes(self) -> int:
        """Return the bytes of the packed weight."""
        return self.layout.bytes(self.density, self.problem.dtype)

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        window, density = self.problem.window_key, density_bucket(self.density)
        return f"{self.name} {window} {density} {self.epilogue.key}"
