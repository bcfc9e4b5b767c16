"""Positions of tokens that tiny decoders compute themselves."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tvm_sparse.testing.tiny_decoders import GraphWriter


def count_positions(out: GraphWriter) -> None:
    """Compute positions from the numbers of past and new tokens."""
    sizes = [
        out.node("Gather", [out.node("Shape", [name], f"{name}_shape"), index], f"{name}_count")
        for name, index in (
            ("past_key_values.0.key", out.weight("of_past", np.array(2))),
            ("input_ids", out.weight("of_new", np.array(1))),
        )
    ]
    end = out.node("Add", sizes, "end")
    counted = out.node("Range", [sizes[0], end, out.weight("step", np.array(1))], "counted")
    first = out.weight("first_axis", np.array([0]))
    out.node("Unsqueeze", [counted, first], "position_ids")


def biases(out: GraphWriter, heads: int) -> str:
    """Return slopes times positions ``(heads, 1, tokens)``, counted from the mask, as Bloom."""
    if not any("biases" in node.output for node in out.nodes):
        last, one = out.weight("sum_axis", np.array(-1)), out.weight("one_back", np.array(1))
        counted = out.node("CumSum", ["attention_mask", last], "mask_sum")
        places = out.node("Sub", [counted, one], "mask_places")
        floats = out.node("Cast", [places], "float_places", to=TensorProto.FLOAT)
        slopes = (2.0 ** -np.arange(1, heads + 1)).astype("float32")
        column = out.weight("slopes", slopes[:, None] * np.float32(1.1))
        rows = out.node("Mul", [column, floats], "bias_rows")
        out.node("Unsqueeze", [rows, out.weight("bias_axis", np.array([1]))], "biases")
    return "biases"
