"""The inputs and outputs of a decoder, and the lengths that follow from them."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from tvm_sparse.decoders.config import DecoderConfig
from tvm_sparse.decoders.nodes import Nodes

_MASK = "/model/attn_mask_reformat/attn_mask_subgraph"


def inputs_of(config: DecoderConfig) -> list[onnx.ValueInfoProto]:
    """Return the inputs of the graph."""
    return [
        helper.make_tensor_value_info(
            "input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]
        ),
        helper.make_tensor_value_info(
            "attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]
        ),
        *_caches(config, "past_key_values", "past_sequence_length"),
    ]


def outputs_of(config: DecoderConfig) -> list[onnx.ValueInfoProto]:
    """Return the outputs of the graph."""
    shape = ["batch_size", "sequence_length", config.vocabulary]
    return [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape),
        *_caches(config, "present", "total_sequence_length"),
    ]


def _caches(config: DecoderConfig, name: str, length: str) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(
            f"{name}.{index}.{part}",
            TensorProto.FLOAT,
            ["batch_size", config.kv_heads, length, config.head_size],
        )
        for index in range(config.layers)
        for part in ("key", "value")
    ]


def key_lengths(nodes: Nodes) -> tuple[str, str]:
    """Return the lengths of the keys less 1, int32 [batch], and the longest, an int32."""
    total = nodes.op("ReduceSum", f"{_MASK}/ReduceSum", "attention_mask", nodes.constant([1]),
                     keepdims=0)  # fmt: skip
    less = nodes.op("Sub", f"{_MASK}/Sub", total, nodes.constant([1]))
    lengths = nodes.op("Cast", f"{_MASK}/Sub/Cast", less, to=TensorProto.INT32)
    shape = nodes.op("Shape", f"{_MASK}/Shape", "attention_mask")
    longest = nodes.op("Gather", f"{_MASK}/Gather", shape, nodes.constant(1), axis=0)
    return lengths, nodes.op("Cast", f"{_MASK}/Gather/Cast", longest, to=TensorProto.INT32)
