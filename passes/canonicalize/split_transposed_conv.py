"""conv_transpose(x, w) => blocks(concat(conv(x, w_0), conv(x, w_1), ...))

A transposed convolution of stride s writes s x s kinds of pixels: those with equal remainders of
their coordinates by s. Each kind sees its own taps of the kernel, always in the same places, so it
is a convolution of the input, and no output is written twice. Neighbouring kinds that see the same
pixels are one convolution. ONNX's DepthToSpace then puts the kinds side by side. Each of these
convolutions gets the kernels, the sparsity and the place in a region that any convolution gets.

The arithmetic is that of Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
2016, chapter 4.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.ir.shapes import extents_of, is_symbolic, reshaped

LAYOUTS = {
    "relax.nn.conv1d_transpose": ("NCW", "IOW", "NCW"),
    "relax.nn.conv2d_transpose": ("NCHW", "IOHW", "NCHW"),
}
"""The layouts of data, kernel and result, by the operator."""

MOST_KINDS = 64
"""More kinds of pixels, as strides of sound have them, would be as many convolutions to compile."""


@tvm.transform.module_pass(opt_level=0, name="SplitTransposedConv")
class SplitTransposedConv:
    """Make convolutions of transposed convolutions with a constant weight."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` without such transposed convolutions."""
        return rewrite_layers(mod, _split)


def _split(call: relax.Call, name: str, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, *LAYOUTS) or call.ty.dtype != ACTIVATIONS:
        return None
    x, weight = call.args
    shape, out_shape = extents_of(x), extents_of(call)
    layouts = tuple(call.attrs[key] for key in ("data_layout", "kernel_layout", "out_layout"))
    if shape is None or out_shape is None or layouts != LAYOUTS[call.op.name]:
        return None
    rank, strides = len(shape) - 2, tuple(int(stride) for stride in call.attrs["strides"])
    if not isinstance(weight, tvm.ir.GenericConst) or math.prod(strides) > MOST_KINDS:
        return None
    array = _outputs_first(weight.value.numpy(), int(call.attrs["groups"]))
    counts = [-(-out // stride) for out, stride in zip(out_shape[2:], strides, strict=True)]
    if is_symbolic([count - size for count, size in zip(counts, shape[2:], strict=True)]):
        return None
    groups = int(call.attrs["groups"])
    kinds = [
        [
            _Taps.of(
                array.shape[2 + axis],
                strides[axis],
                int(call.attrs["dilation"][axis]),
                remainders[axis] + int(call.attrs["padding"][axis]),
                shape[2 + axis],
                counts[axis],
            )
            for axis in range(rank)
        ]
        for remainders in itertools.product(*map(range, strides))
    ]
    products = []
    for _, alike in itertools.groupby(kinds, _window if groups == 1 else id):
        same = list(alike)
        conv = relax.op.nn.conv1d if rank == 1 else relax.op.nn.conv2d
        product = conv(
            x,
            relax.const(np.concatenate([_chosen(array, taps) for taps in same])),
            padding=[*(t.before for t in same[0]), *(t.after for t in same[0])],
            dilation=[t.dilation for t in same[0]],
            groups=groups,
        )
        products.append(emit(product, name))
    image = emit(relax.op.concat(products, axis=1)) if len(products) > 1 else products[0]
    blocks = _blocks(image, (*out_shape[:2], *counts), strides, emit)
    ends = [count * stride for count, stride in zip(counts, strides, strict=True)]
    if ends == list(out_shape[2:]):
        return blocks
    axes = list(range(2, 2 + rank))
    return relax.op.strided_slice(emit(blocks), axes, [0] * rank, list(out_shape[2:]))


@dataclass(frozen=True)
class _Taps:
    """The taps of an axis of the kernel that one kind of output pixels sees.

    Output pixel ``q * stride + r`` is the sum of ``x[q + (r + padding - t * dilation) / stride]
    w[t]`` over those t for which the quotient is an integer.
    """

    places: tuple[int | None, ...]
    """The tap of the kernel for each tap of the convolution; None for one of zeros."""
    dilation: int
    before: int
    after: int

    @staticmethod
    def of(kernel: int, stride: int, dilation: int, shifted: int, extent: int, count: int) -> _Taps:
        """Return the taps of an axis.

        Parameters
        ----------
        kernel, stride, dilation : int
            Those of the transposed convolution.
        shifted : int
            The remainder of the output pixels, plus the padding at the front.
        extent, count : int
            Pixels of the input, and output pixels of the kind.
        """
        step = dilation // math.gcd(dilation, stride)
        offsets = {
            (shifted - tap * dilation) // stride: tap
            for tap in range(kernel)
            if (shifted - tap * dilation) % stride == 0
        }
        # Taps of zeros make the window reach both ends of the image: no pad is negative.
        first, last = min(offsets, default=0), max(offsets, default=0)
        first -= max(0, -(-first // step)) * step
        last += max(0, -(-(extent - count - last) // step)) * step
        places = tuple(offsets.get(offset) for offset in range(first, last + 1, step))
        return _Taps(places, step, -first, last + count - extent)


def _window(taps: list[_Taps]) -> list[tuple[int, int, int]]:
    """Return what kinds of pixels have in common that one convolution can compute."""
    return [(len(t.places), t.dilation, t.before) for t in taps]


def _outputs_first(weight: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Return a weight ``(in, out of a group, ...)`` as ``(out, in of a group, ...)``."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).swapaxes(1, 2)
    return grouped.reshape(-1, *grouped.shape[2:])


def _chosen(weight: NDArray[np.float32], taps: list[_Taps]) -> NDArray[np.float32]:
    """Return the weight with its taps in the places of the convolution."""
    for axis, chosen in enumerate(taps, start=2):
        parts = [
            np.zeros_like(weight.take([0], axis)) if tap is None else weight.take([tap], axis)
            for tap in chosen.places
        ]
        weight = np.concatenate(parts, axis)
    return np.ascontiguousarray(weight)


def _blocks(
    image: relax.Expr, shape: tuple[int, ...], block: tuple[int, ...], emit: Emit
) -> relax.Expr:
    """Arrange the kinds ``(batch, kinds * channels, ...)`` as blocks of pixels.

    `shape` is that of one kind.
    """
    if math.prod(block) == 1:
        return image
    batch, channels, *pixels = shape
    rank = len(block)
    parted = emit(reshaped(image, (batch, *block, channels, *pixels)))
    order = [0, rank + 1]
    for axis in range(rank):
        order += [rank + 2 + axis, 1 + axis]
    turned = emit(relax.op.permute_dims(parted, order))
    whole = [count * size for count, size in zip(pixels, block, strict=True)]
    return reshaped(turned, (batch, channels, *whole))
