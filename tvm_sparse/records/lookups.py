"""What the compiler asks of the tuning records: lanes, kernels, plans, and whether to use them.

A `Lookups` is how the records reach the passes, which do not know where the answers come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tvm_sparse.columns.plans import PlanFor
from tvm_sparse.tilings.families import KernelFor, nothing_measured


@dataclass(frozen=True)
class TokenNetwork:
    """The linear layers on tokens of a network, for which the lanes of panels are chosen.

    Attributes
    ----------
    layers : tuple of (batch, tokens, input channels, output channels, density)
        The layers in the order of execution.
    """

    layers: tuple[tuple[int, int, int, int, float], ...]

    @property
    def tokens(self) -> int:
        """The number of tokens of the longest sequence."""
        return max((tokens for _, tokens, *_ in self.layers), default=0)

    @property
    def name(self) -> str:
        """The number of layers and their sizes, for people."""
        batch = max((batch for batch, *_ in self.layers), default=0)
        return f"network of {len(self.layers)} linear layers @ {batch}x{self.tokens}"


LanesFor: TypeAlias = Callable[[TokenNetwork], int | None]
"""Returns the lanes that were measured to be the best for a network; None if none were measured."""


@dataclass(frozen=True)
class Lookups:
    """Functions that return what was measured to be the best; None where nothing was measured.

    They change nothing, so they can be called in any order and as often as needed.

    Attributes
    ----------
    lanes_for : callable
        Returns the lanes of panels for a `TokenNetwork`.
    kernel_for : callable
        Returns the tiling for a `Layer`.
    plan_for : callable, optional
        Returns the plan for a `RegionShape`; None stands for a function that knows no plan.
    refuses : callable
        Returns whether a model, named by its key, was measured to be faster without the records.
    source : str
        The file of the records, for people; empty if there is none.
    """

    lanes_for: LanesFor = lambda network: None
    kernel_for: KernelFor = nothing_measured
    plan_for: PlanFor | None = None
    refuses: Callable[[str], bool] = lambda key: False
    source: str = ""
