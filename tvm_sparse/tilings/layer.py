"""A layer with a constant weight, as the choice of its kernel sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from tvm_sparse.sizes.block_linear import BlockLinear
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear

SizesT_co = TypeVar("SizesT_co", bound=Linear | Conv2d | BlockLinear, covariant=True)


@dataclass(frozen=True)
class Layer(Generic[SizesT_co]):
    """What the choice of a layer's kernel depends on.

    Attributes
    ----------
    problem : Linear, Conv2d or BlockLinear
        The sizes of the layer.
    density : float
        Non-zero fraction of its weight.
    is_quantized : bool
        Whether its weight consists of integers, and its input is rounded to integers.
    word_density : float
        Share of the words of integers of its weight, as the target's dot products take them, that
        are not zero; 1 for a weight of floats.
    is_dynamic : bool
        Whether only an inference knows the scale and the zero point of its input.
    is_wide : bool
        Whether integers of its weight are farther from zero than int8 reaches.
    """

    problem: SizesT_co
    density: float = 1.0
    is_quantized: bool = False
    word_density: float = 1.0
    is_dynamic: bool = False
    is_wide: bool = False

    @property
    def name(self) -> str:
        """The sizes of the layer, as people read them."""
        return self.problem.name
