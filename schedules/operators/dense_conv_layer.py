"""The base of dense convolutions: a weight in blocks of output channels, and its multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.emit.buffers import Registers, argument, flat, prefetch
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.layer import ConvStage
from tvm_sparse.sizes.conv2d import Conv2d

if TYPE_CHECKING:
    from tvm.ir import Expr

WEIGHTS_AHEAD = 1024
"""Weights by which a weight is prefetched ahead of its use; taken from the dense linear kernel."""


class DenseConvStage(ConvStage):
    """A convolution with a weight from `tvm_sparse.formats.dense.pack_conv2d`.

    Parameters
    ----------
    problem, epilogue, cpu, reads_image, writes_image
        As `ConvStage`.
    channels, width : int
        Output channels of a block of weights, and values per vector.
    """

    acc: Registers

    def __init__(
        self,
        problem: Conv2d,
        epilogue: Epilogue,
        cpu: CpuProfile,
        channels: int,
        width: int,
        *,
        reads_image: bool,
        writes_image: bool,
    ) -> None:
        super().__init__(problem, epilogue, cpu, reads_image=reads_image, writes_image=writes_image)
        problem = self.problem
        self.block_channels, self.width = channels, width
        self.group_inputs = problem.channels // problem.groups
        self.group_outputs = problem.out_channels // problem.groups
        self.group_blocks = -(-self.group_outputs // channels)
        self.blocks = self.group_blocks * problem.groups

    def declare_weight(self) -> None:
        """Declare the packed weight and the bias."""
        taps = (self.group_inputs, *self.problem.kernel, self.block_channels)
        has_bias, dtype = self.epilogue.bias, self.problem.dtype
        self.weight = argument("weight", self.blocks, *taps, dtype=dtype)
        self.bias = argument("bias", self.tensor.channels, dtype=dtype) if has_bias else None

    def weight_bytes(self) -> int:
        """Return the bytes of the weight."""
        taps = self.group_inputs * math.prod(self.problem.kernel)
        return self.problem.dtype.bytes * self.problem.out_channels * taps

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        return f"{self.name} of {self.problem.key} {self.epilogue.key}"

    def weights_of(self, block: Expr) -> Any:
        """Return a flat view of the weights of a block."""
        size = self.group_inputs * math.prod(self.problem.kernel) * self.block_channels
        return flat(self.weight[block, 0, 0, 0, 0], size, self.problem.dtype)

    def first_input(self, block: Expr) -> Expr:
        """Return the first input channel that a block of output channels sees."""
        return block // self.group_blocks * self.group_inputs

    def first_output(self, block: Expr) -> Expr:
        """Return the first output channel of a block."""
        in_group = block % self.group_blocks * self.block_channels
        return block // self.group_blocks * self.group_outputs + in_group

    def multiply_tap(
        self, weights: Any, c: Expr, dy: Expr | int, dx: int, sources: Sequence[Expr]
    ) -> None:
        """Add the products of some vectors and the weights of one tap to the accumulators."""
        kh, kw = self.problem.kernel
        tap = ((c * kh + dy) * kw + dx) * self.block_channels
        prefetch(weights[tap + WEIGHTS_AHEAD])
        vectors = [T.bind(source) for source in sources]
        for k in range(self.block_channels):
            factor = T.bind(T.Broadcast(weights[tap + k], self.width))
            for v, source in enumerate(vectors):
                i = k * len(vectors) + v
                self.acc[i] = self.acc[i] + factor * source
