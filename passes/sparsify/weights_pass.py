"""The frame of the passes that choose kernels for layers with constant weights."""

from __future__ import annotations

from collections.abc import Collection

import tvm

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.tilings.families import KernelFor, nothing_measured


class WeightsPass:
    """Knows what the choice of a kernel depends on, besides the layer.

    Parameters
    ----------
    target : tvm.target.Target or CpuProfile
        The processor that the module is compiled for.
    kernel_for : callable
        Returns the measured kernel of a layer, which replaces the cost model's choice, or None.
    keep_float32 : collection of str
        The names of layers whose panels are float32 whatever the activations of `target` are.
    """

    def __init__(
        self,
        target: tvm.target.Target | CpuProfile,
        kernel_for: KernelFor = nothing_measured,
        keep_float32: Collection[str] = (),
    ) -> None:
        self.cpu, self.kernel_for = CpuProfile.of(target), kernel_for
        self.keep_float32 = keep_float32
