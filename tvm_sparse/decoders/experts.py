"""Mixtures of experts in a decoder: com.microsoft's ``MoE`` of floats, ``QMoE`` of int4 and int8.

The rows of gate and up stand in turns in one weight (``swiglu_fusion`` 1), which is the form that
ONNX Runtime computes on CPUs:

    x -> MatMul -> Reshape = logits of the experts
    x, logits -> MoE(fc1 = gate 0, up 0, gate 1, up 1, ...; fc2 = down)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders.config import DecoderConfig
from tvm_sparse.decoders.nodes import MICROSOFT, Nodes
from tvm_sparse.decoders.parameters import ROUTER, Parameter, Parameters, expert_names, layer
from tvm_sparse.decoders.quantized_rows import QuantizedRows, stacked_or_none
from tvm_sparse.errors import ModelError


def append_experts(
    nodes: Nodes, config: DecoderConfig, parameters: Parameters, index: int, x: str
) -> str:
    """Append the mixture of a layer; return the name of its result.

    Raises
    ------
    ModelError
        If experts of a layer are quantized in different ways, or with zero points.
    """
    path, name = f"/model/layers.{index}/moe", layer(index)
    router = parameters(f"{name}{ROUTER}.weight")
    assert router is not None
    logits = nodes.linear(f"{path}/gate", x, router)
    rows = nodes.op("Reshape", f"{path}/gate/Reshape", logits, nodes.constant([-1, config.experts]))
    # One expert at a time, so that those in memory as they are read are few.
    first: list[Parameter] = []
    second: list[Parameter] = []
    for expert in range(config.experts):
        gate, up, down = (parameters(f"{name}{part}.weight") for part in expert_names(expert))
        assert gate is not None and up is not None and down is not None
        first.append(_in_turns(gate, up, f"{name}{ROUTER}"))
        second.append(down)
    stem = f"model.layers.{index}.moe"
    one, two = (_stacked(weights, f"{name}{ROUTER}") for weights in (first, second))
    attributes: dict[str, Any] = {
        "k": config.active_experts,
        "normalize_routing_weights": 1,
        "activation_type": "swiglu",
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
        "swiglu_fusion": 1,
    }
    if isinstance(one, QuantizedRows) and isinstance(two, QuantizedRows):
        operands = [*_quantized(nodes, f"{stem}.1", one, config.experts), "",
                    *_quantized(nodes, f"{stem}.2", two, config.experts)]  # fmt: skip
        return nodes.op(
            "QMoE", f"{path}/QMoE", x, rows, *operands, domain=MICROSOFT,
            expert_weight_bits=one.bits, block_size=one.block,
            accuracy_level=nodes.accuracy_level, **attributes,
        )  # fmt: skip
    assert isinstance(one, np.ndarray) and isinstance(two, np.ndarray)
    weights = [
        nodes.weight(f"{stem}.weight_{number}", _of_experts(value, config.experts))
        for number, value in ((1, one), (2, two))
    ]
    return nodes.op(
        "MoE", f"{path}/MoE", x, rows, weights[0], "", weights[1], domain=MICROSOFT, **attributes
    )


def _in_turns(gate: Parameter, up: Parameter, where: str) -> Parameter:
    """Return the rows of two weights in turns."""
    both = _stacked([gate, up], where)
    order = np.arange(gate.shape[0] * 2).reshape(2, -1).T.ravel()
    return both.take(order) if isinstance(both, QuantizedRows) else both[order]


def _stacked(weights: list[Parameter], where: str) -> Parameter:
    stacked = stacked_or_none(weights)
    if stacked is None:
        raise ModelError(f"the experts beside {where!r} are quantized in different ways")
    return stacked


def _of_experts(weight: NDArray, experts: int) -> NDArray[np.float32]:
    return weight.reshape(experts, -1, weight.shape[1]).astype(np.float32)


def _quantized(nodes: Nodes, stem: str, weight: QuantizedRows, experts: int) -> tuple[str, str]:
    """Add the codes (experts, N, bytes of a row) and the scales (experts, N, blocks)."""
    if weight.zero_points is not None or weight.columns % weight.block:
        raise ModelError("experts with zero points, or with blocks that are not whole: no QMoE")
    codes = weight.codes.reshape(experts, weight.rows // experts, -1)
    scales = weight.scales.reshape(experts, weight.rows // experts, -1)
    return nodes.weight(f"{stem}.weight", codes), nodes.weight(f"{stem}.scales", scales)
