"""The layers that `board_estimates` looks at, each with its sparse and its dense kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm.tirx import PrimFunc

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.dense import pack_conv2d, pack_linear
from tvm_sparse.formats.sparse import PackedSparse
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.conv2d import conv2d
from tvm_sparse.schedules.operators.linear import linear
from tvm_sparse.schedules.operators.sparse_conv2d import sparse_conv2d
from tvm_sparse.schedules.operators.sparse_linear import sparse_linear
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.testing.images import conv2d_reference, image_panels
from tvm_sparse.testing.models import pruned
from tvm_sparse.tilings.conv2d import CONV2D_FAMILY
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.linear import LINEAR_FAMILY
from tvm_sparse.tilings.sparse_conv2d import SPARSE_CONV2D_FAMILY
from tvm_sparse.tilings.sparse_linear import SPARSE_LINEAR_FAMILY

PLAIN = Epilogue()


@dataclass(frozen=True)
class Kernel:
    """A kernel of a layer, ready to be compiled and run.

    Attributes
    ----------
    func : PrimFunc
        The kernel.
    group : int
        Output channels that the inner loop computes, one non-zero each.
    inputs : list of array
        Its arguments but the output.
    shape : tuple of int
        Shape of the output.
    expected : array
        The values that the first lanes of the output must hold.
    """

    func: PrimFunc
    group: int
    inputs: list[NDArray]
    shape: tuple[int, ...]
    expected: NDArray


@dataclass(frozen=True)
class NetworkLayer:
    """A layer of a network.

    Attributes
    ----------
    name : str
        The name in the tables.
    build : callable
        ``build(sparsity, cpu)`` returns its kernel, dense for a sparsity of zero.
    """

    name: str
    build: Callable[[float, CpuProfile], Kernel]


def linear_kernel(n: int, k: int, tokens: int, sparsity: float, cpu: CpuProfile) -> Kernel:
    """Return the kernel of a linear layer with random weights and inputs."""
    rng, lanes = np.random.default_rng(0), cpu.panel_lanes(tokens)
    rows = -(-tokens // lanes)
    x = rng.standard_normal((rows, k, lanes)).astype("float32")
    weight = pruned(rng, (n, k), 1 - sparsity)
    shape, expected = (rows, n, lanes), weight @ x
    layer = Layer(Linear(rows, lanes, n, k), 1 - sparsity)
    if not sparsity:
        func = linear(rows, lanes, n, k, PLAIN, cpu)
        packed_dense = pack_linear(weight, LINEAR_FAMILY.default(layer, cpu).channels)
        return Kernel(func, 1, [x, packed_dense], shape, expected)
    tiling = SPARSE_LINEAR_FAMILY.default(layer, cpu)
    func = sparse_linear(rows, lanes, n, k, tiling, PLAIN, cpu)
    packed = PackedSparse.from_dense(weight, lanes, tiling)
    return Kernel(func, tiling.group, [x, *_arrays(packed)], shape, expected)


def conv_kernel(channels: int, size: int, kernel: int, sparsity: float, cpu: CpuProfile) -> Kernel:
    """Return the kernel of a convolution with random weights and inputs."""
    rng, lanes = np.random.default_rng(0), cpu.image_lanes(size)
    problem = Conv2d(
        batch=1,
        channels=channels,
        height=size,
        width=size,
        out_channels=channels,
        kernel=(kernel, kernel),
        padding=(kernel // 2,) * 4,
        lanes_in=lanes,
        lanes_out=lanes,
    )
    image = rng.standard_normal((1, channels, size, size)).astype("float32")
    weight = pruned(rng, (channels, channels, kernel, kernel), 1 - sparsity)
    x, shape = image_panels(image, lanes), (size, channels, lanes)
    expected = image_panels(conv2d_reference(image, weight, problem), size)
    if not sparsity:
        func = conv2d(problem, PLAIN, cpu)
        packed_dense = pack_conv2d(weight, 1, CONV2D_FAMILY.default(Layer(problem), cpu).channels)
        return Kernel(func, 1, [x, packed_dense], shape, expected)
    tiling = SPARSE_CONV2D_FAMILY.default(Layer(problem, 1 - sparsity), cpu)
    func = sparse_conv2d(problem, tiling, PLAIN, cpu)
    packed = PackedSparse.from_conv2d(weight, problem, tiling)
    return Kernel(func, tiling.group, [x, *_arrays(packed)], shape, expected)


def _arrays(packed: PackedSparse) -> list[NDArray]:
    return [packed.indptr, packed.channels, packed.offsets, packed.values]


LAYERS = (
    NetworkLayer("linear 768 > 768", lambda s, cpu: linear_kernel(768, 768, 32, s, cpu)),
    NetworkLayer("linear 384 > 1536", lambda s, cpu: linear_kernel(1536, 384, 32, s, cpu)),
    NetworkLayer("conv 3x3 64 @ 56", lambda s, cpu: conv_kernel(64, 56, 3, s, cpu)),
    NetworkLayer("conv 3x3 128 @ 28", lambda s, cpu: conv_kernel(128, 28, 3, s, cpu)),
    NetworkLayer("conv 3x3 256 @ 14", lambda s, cpu: conv_kernel(256, 14, 3, s, cpu)),
    NetworkLayer("conv 3x3 256 @ 7", lambda s, cpu: conv_kernel(256, 7, 3, s, cpu)),
)
