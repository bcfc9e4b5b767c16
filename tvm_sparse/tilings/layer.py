"""A layer with a constant weight, as the choice of its kernel sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear

SizesT_co = TypeVar("SizesT_co", bound=Linear | Conv2d, covariant=True)


@dataclass(frozen=True)
class Layer(Generic[SizesT_co]):
    """What the choice of a layer's kernel depends on.

    Attributes
    ----------
    problem : Linear or Conv2d
        Its sizes.
    density : float
        Non-zero fraction of its weight.
    """

    problem: SizesT_co
    density: float = 1.0

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
