"""A layer with a constant weight, as the choice of its kernel sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm_sparse.formats.sparse import SparseConvTiling, SparseTiling, density_bucket
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.choice import DenseTiling
from tvm_sparse.tilings.sparse_conv2d import (
    DenseConvTiling,
    DepthwiseTiling,
)


@dataclass(frozen=True)
class Layer:
    """What the choice of a layer's kernel depends on.

    Attributes
    ----------
    problem : Linear or Conv2d
        Its sizes.
    density : float
        Non-zero fraction of its weight.
    """

    problem: Linear | Conv2d
    density: float

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a kernel of its own."""
        return isinstance(self.problem, Conv2d) and self.problem.is_depthwise

    @property
    def name(self) -> str:
        """Sizes for people."""
        p = self.problem
        if isinstance(p, Linear):
            return f"linear {p.k} > {p.n} @ {p.rows}x{p.lanes}"
        kind = "depthwise_conv2d" if self.is_depthwise else "conv2d"
        stride = f" / {p.stride[0]}" if p.stride[0] > 1 else ""
        return (
            f"{kind} {p.kernel[0]}x{p.kernel[1]}{stride} {p.channels} > {p.out_channels} "
            f"@ {p.batch}x{p.height}x{p.width}"
        )

    @property
    def key(self) -> str:
        """Structure, with a bucket of the density in place of the weight."""
        return f"{self.problem} {density_bucket(self.density)}"

    def fits(self, tiling: Tiling) -> bool:
        """Whether the operator of a tiling computes such a layer, and its chunks are equal."""
        if isinstance(self.problem, Linear):
            kinds: tuple[type[Any], ...] = (SparseTiling, DenseTiling)
        elif self.is_depthwise:
            kinds = (DepthwiseTiling,)
        elif self.problem.groups > 1:
            kinds = (DenseConvTiling,)
        else:
            kinds = (SparseConvTiling, DenseConvTiling)
        p = self.problem
        channels = p.n if isinstance(p, Linear) else p.out_channels
        cuts_evenly = not isinstance(tiling, SparseTiling) or channels % tiling.chunks == 0
        return type(tiling) in kinds and cuts_evenly


Tiling: TypeAlias = (
    SparseTiling | SparseConvTiling | DenseTiling | DenseConvTiling | DepthwiseTiling
)
