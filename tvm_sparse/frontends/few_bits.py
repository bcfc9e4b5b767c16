"""The weights of the MatMulNBits nodes of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tvm_sparse.formats.blocks import BITS, BlockCodes, in_bytes, misfit, unpacked

OPERATOR = "MatMulNBits"


def sizes_of(node: onnx.NodeProto) -> tuple[int, int, int, int]:
    """Return output channels, input channels, bits and the block of a node; 0 where they miss."""
    attributes = {attribute.name: int(attribute.i) for attribute in node.attribute}
    n, k, block = (attributes.get(name, 0) for name in ("N", "K", "block_size"))
    return n, k, attributes.get("bits", 4), block


def codes_of(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> BlockCodes | None:
    """Return the weight of a MatMulNBits node.

    None if it is computed when the model runs, has other bits or zero points than `BlockCodes`, or
    does not fit the node.
    """
    n, k, bits, block = sizes = sizes_of(node)
    names = [name for name in node.input[1:4] if name]
    if bits not in BITS or any(name not in tensors for name in names):
        return None
    packed, scales, *zeros = (numpy_helper.to_array(tensors[name]) for name in names)
    if misfit(sizes, packed, scales, zeros[0] if zeros else None):
        return None
    blocks = -(-k // block)
    codes = unpacked(packed.reshape(n, -1), bits)[:, :k]
    points = np.full((n, blocks), 1 << (bits - 1), np.uint8)
    if zeros:
        if zeros[0].dtype != np.uint8:
            return None
        points = unpacked(zeros[0].reshape(n, -1), bits)[:, :blocks]
    return BlockCodes(codes, scales.reshape(n, blocks).astype(np.float32), points, bits, block)


def with_zeros(
    tensor: onnx.TensorProto, weight: BlockCodes, is_zero: NDArray[np.bool_]
) -> onnx.TensorProto:
    """Return the packed codes of a weight with some of them set to their zero points.

    Parameters
    ----------
    tensor : onnx.TensorProto
        The codes as the node reads them.
    weight : BlockCodes
        The weight.
    is_zero : numpy.ndarray
        ``(N, K)``: which ones.
    """
    n, k = weight.shape
    zeros = np.repeat(weight.zeros, weight.block, axis=1)
    packed = numpy_helper.to_array(tensor)
    codes = unpacked(packed.reshape(n, -1).view(np.uint8), weight.bits).copy()
    codes[:, :k] = np.where(is_zero, zeros[:, :k], codes[:, :k])
    return numpy_helper.from_array(
        in_bytes(codes, weight.bits).reshape(packed.shape).view(packed.dtype), tensor.name
    )
