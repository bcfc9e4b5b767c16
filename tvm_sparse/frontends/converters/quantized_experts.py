"""Mixtures of experts whose weights are integers in blocks: QMoE of com.microsoft.

Their weights become the floats that they stand for, and the mixture is converted as MoE is. Zeros
stay zeros, so that pruned experts are as fast as those of a float model.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.formats.blocks import unpacked
from tvm_sparse.frontends.converters.experts import mixture_of_experts
from tvm_sparse.frontends.converters.node import Inputs, Node

_log = logging.getLogger("tvm_sparse")

_LAYERS = ("fc1", "fc2", "fc3")


def quantized_mixture_of_experts(node: Node) -> Any:
    """Convert QMoE by MoE of dequantized weights."""
    if node.text("quant_type", "int") != "int":
        raise NotImplementedError("its attribute 'quant_type' is supported as int")
    if int(node.attributes.get("weights_prepacked", -1)) == 1:
        raise NotImplementedError("its attribute 'weights_prepacked' is supported as 0")
    bits, block = (
        int(node.attributes.get(name, default))
        for name, default in (("expert_weight_bits", 4), ("block_size", 0))
    )
    if bits not in (4, 8):
        raise NotImplementedError(f"its experts of {bits} bits are not supported")
    node.attributes.get("accuracy_level", 0)  # floats are exact enough for every level
    inputs: list[Any] = [node.inputs[0], node.inputs[1]]
    for number, layer in enumerate(_LAYERS):
        first = 2 + 3 * number
        if node.inputs[first] is None:
            continue
        weight = _dequantized(node, first, 11 + number, layer, bits, block)
        inputs += [relax.const(weight, "float32"), node.inputs[first + 2]]
    _say_that_floats_are_large(bits)
    return mixture_of_experts(dataclasses.replace(node, inputs=Inputs(inputs)))


def _dequantized(
    node: Node, position: int, points: int, layer: str, bits: int, block: int
) -> NDArray[np.float32]:
    """Return a weight (experts, N, K) as floats."""
    packed = node.required(position, f"{layer}_experts_weights").view(np.uint8)
    scales = node.required(position + 1, f"{layer}_scales").astype(np.float32)
    experts, channels, _ = packed.shape
    codes = unpacked(packed.reshape(experts * channels, -1), bits).astype(np.float32)
    taps = codes.shape[1]
    blocks = taps // block if block else 1
    if taps % blocks or scales.size != experts * channels * blocks:
        raise NotImplementedError(f"its {layer}_scales do not fit blocks of {block}")
    zeros: Any = float(1 << (bits - 1))
    if (given := node.constant(points, f"{layer}_zero_points")) is not None:
        if not block:
            raise NotImplementedError("its zero points without blocks are not supported")
        rows = unpacked(given.view(np.uint8).reshape(experts * channels, -1), bits)
        zeros = rows[:, :blocks, None].astype(np.float32)
    wide = codes.reshape(experts * channels, blocks, -1) - zeros
    wide *= scales.reshape(experts * channels, blocks, 1)
    return wide.reshape(experts, channels, taps)


@functools.cache
def _say_that_floats_are_large(bits: int) -> None:
    _log.warning(
        "experts of %d bits (QMoE) are computed as float32, which takes %d times their bytes",
        bits, 32 // bits,
    )  # fmt: skip
