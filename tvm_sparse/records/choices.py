"""What was measured, and takes the place of what the cost model would choose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import tvm

from tvm_sparse.columns.plans import PlanFor
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.sparse import density_bucket
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.passes.sparsify.constant_layers import constant_layers
from tvm_sparse.records.file import digest
from tvm_sparse.tilings.families import KernelFor, by_cost_model


@dataclass(frozen=True)
class TokenNetwork:
    """The linear layers on tokens of a network, for which the lanes of panels are chosen.

    Attributes
    ----------
    layers : tuple of (batch, tokens, input channels, output channels, density)
        In the order of execution.
    """

    layers: tuple[tuple[int, int, int, int, float], ...]

    @property
    def tokens(self) -> int:
        """The most tokens of a sequence."""
        return max((tokens for _, tokens, *_ in self.layers), default=0)

    @property
    def name(self) -> str:
        """Sizes for people."""
        batch = max((batch for batch, *_ in self.layers), default=0)
        return f"network of {len(self.layers)} linear layers @ {batch}x{self.tokens}"

    @property
    def key(self) -> str:
        """Name and a digest of the layers, with a bucket of each density."""
        layers = [(*sizes, density_bucket(density)) for *sizes, density in self.layers]
        return f"{self.name} #{digest(repr(layers))}"


LanesFor: TypeAlias = Callable[[TokenNetwork], int | None]
"""Returns the lanes of panels that were measured to be the best for a network, if any were."""


@dataclass(frozen=True)
class Choices:
    """Functions that return what was measured; None where nothing was.

    Attributes
    ----------
    lanes_for, kernel_for : callable
        For a network of layers on tokens, and for a layer.
    plan_for : callable, optional
        For a region.
    refuses : callable
        Whether a model, by its `model_key`, was measured to be faster without all of that.
    """

    lanes_for: LanesFor = lambda network: None
    kernel_for: KernelFor = by_cost_model
    plan_for: PlanFor | None = None
    refuses: Callable[[str], bool] = lambda key: False

    def fitting(self, mod: tvm.IRModule, cpu: CpuProfile) -> Choices:
        """Return what is used for a module that does not work on panels yet: all, or nothing."""
        return Choices() if self.refuses(model_key(mod, cpu)) else self


def model_key(mod: tvm.IRModule, cpu: CpuProfile) -> str:
    """Return a name of the structure of a module that does not work on panels yet."""
    keys = [found.layer.key for found in constant_layers(mod, cpu)]
    return f"model of {len(keys)} layers #{digest(repr(keys))}"


def token_network(mod: tvm.IRModule, cpu: CpuProfile) -> TokenNetwork:
    """Return the linear layers on tokens of a module, before it works on panels."""
    layers = []
    for found in constant_layers(mod, cpu):
        if is_call_to(found.panels, operators.TO_PANELS):
            *batch, tokens, depth = static_shape(found.panels.args[0]) or ()
            sizes = math.prod(batch), tokens, depth, found.weight.shape[0]
            layers.append((*sizes, found.layer.density))
    return TokenNetwork(tuple(layers))
