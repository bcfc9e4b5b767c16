"""Weights of Llama's family => the ONNX graph that onnxruntime-genai's builder writes for CPUs.

The graph is that of https://github.com/microsoft/onnxruntime-genai (src/python/py/models), of its
``builders/base.py`` for float32 activations: names, operators and their order. ONNX Runtime runs
it, and so does every program that knows models of onnxruntime-genai.

    attention_mask -> ReduceSum -> Sub 1 -> Cast = lengths of the keys - 1
    attention_mask -> Shape -> Gather -> Cast    = length of the longest
    input_ids -> Gather, then a layer:
        norm -> MatMul of q, k, v -> GroupQueryAttention(past, rotation) -> MatMul
        -> skip norm -> MatMul of gate and up -> x * Sigmoid(x) * up -> MatMul
    -> skip norm -> MatMul = logits
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.decoders.config import DecoderConfig
from tvm_sparse.decoders.experts import append_experts
from tvm_sparse.decoders.nodes import MICROSOFT, Nodes, Store
from tvm_sparse.decoders.parameters import (
    EMBEDDINGS,
    HEAD,
    LAST_NORM,
    Parameter,
    Parameters,
    checked,
    layer,
)
from tvm_sparse.decoders.quantized_rows import QuantizedRows, stacked_or_none

_MASK = "/model/attn_mask_reformat/attn_mask_subgraph"


def decoder_model(
    config: DecoderConfig,
    parameters: Parameters,
    *,
    accuracy_level: int = 4,
    packed: bool = True,
    store: Store | None = None,
) -> onnx.ModelProto:
    """Return a language model as ONNX.

    The inputs are ``input_ids`` int64 [batch, new tokens], ``attention_mask`` int64 [batch, all
    tokens], and for each layer N ``past_key_values.N.key`` and ``.value``, float32 [batch, kv
    heads, past tokens, head size]. The outputs are ``logits`` float32 [batch, new tokens,
    vocabulary], and ``present.N.key`` and ``.value`` with the new tokens at their end.

    Parameters
    ----------
    config : DecoderConfig
        The sizes.
    parameters : callable
        Returns the parameter of a name that `parameter_shapes` lists, or the bias of a linear
        layer, which ends in ``.bias``. A tied network may have a form of the embeddings of its own
        for the head, ``lm_head.weight``.
    accuracy_level : int
        What quantized products say of their activations: 4, the default of onnxruntime-genai on
        CPUs, lets ONNX Runtime round them to 8 bits; 1 asks for float32.
    packed : bool
        Whether query, key and value are one product if their weights allow it.
    store : callable, optional
        Makes initializers of arrays; by default they lie in the model.

    Raises
    ------
    ModelError
        If a parameter is missing or has another shape.
    """
    nodes = Nodes(store or _inside, accuracy_level)
    builder = _Decoder(config, checked(config, parameters), nodes, packed)
    builder.build()
    graph = helper.make_graph(
        nodes.nodes,
        "main_graph",
        builder.inputs(),
        builder.outputs(),
        list(nodes.initializers.values()),
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="tvm-sparse")


def _inside(name: str, value: NDArray) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


class _Decoder:
    """The graph of one model."""

    def __init__(
        self, config: DecoderConfig, parameters: Parameters, nodes: Nodes, packed: bool
    ) -> None:
        self._config = config
        self._parameters = parameters
        self._nodes = nodes
        self._packed = packed

    def build(self) -> None:
        """Append all nodes."""
        nodes, config = self._nodes, self._config
        lengths, longest = self._lengths()
        tables = [
            nodes.weight(name, table)
            for name, table in zip(("cos_cache", "sin_cache"), config.rotary_tables(), strict=True)
        ]
        x = skip = self._embedding()
        for index in range(config.layers):
            path = f"/model/layers.{index}"
            if index == 0:
                normal = nodes.norm(
                    f"{path}/input_layernorm", x, self._vector(f"{layer(0)}input_layernorm.weight"),
                    config.norm_epsilon, "model.layers.0.input_layernorm.weight",
                )  # fmt: skip
            else:
                normal, x = self._skip_norm(index, "input", x, skip)
            skip = self._attention(index, normal, [lengths, longest, *tables])
            normal, x = self._skip_norm(index, "post_attention", x, skip)
            skip = self._gated_layer(index, normal)
        normal, _ = self._skip_norm(config.layers, "final_norm", x, skip, LAST_NORM)
        # The head of a tied network may be quantized where the embeddings are not.
        head = self._parameters(HEAD)
        if head is None:
            head = self._linear_weight(EMBEDDINGS)
        nodes.linear("/lm_head", normal, head, output="logits")

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """Return the inputs of the graph."""
        return [
            helper.make_tensor_value_info(
                "input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]
            ),
            helper.make_tensor_value_info(
                "attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]
            ),
            *self._caches("past_key_values", "past_sequence_length"),
        ]

    def outputs(self) -> list[onnx.ValueInfoProto]:
        """Return the outputs of the graph."""
        shape = ["batch_size", "sequence_length", self._config.vocabulary]
        return [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape),
            *self._caches("present", "total_sequence_length"),
        ]

    def _caches(self, name: str, length: str) -> list[onnx.ValueInfoProto]:
        config = self._config
        return [
            helper.make_tensor_value_info(
                f"{name}.{index}.{part}",
                TensorProto.FLOAT,
                ["batch_size", config.kv_heads, length, config.head_size],
            )
            for index in range(config.layers)
            for part in ("key", "value")
        ]

    def _vector(self, name: str) -> NDArray:
        value = self._parameters(name)
        assert isinstance(value, np.ndarray)
        return value

    def _linear_weight(self, name: str) -> Parameter:
        value = self._parameters(name)
        assert value is not None
        return value

    def _lengths(self) -> tuple[str, str]:
        """Return the lengths of the keys less 1, int32 [batch], and the longest, an int32."""
        nodes = self._nodes
        total = nodes.op("ReduceSum", f"{_MASK}/ReduceSum", "attention_mask", nodes.constant([1]),
                         keepdims=0)  # fmt: skip
        less = nodes.op("Sub", f"{_MASK}/Sub", total, nodes.constant([1]))
        lengths = nodes.op("Cast", f"{_MASK}/Sub/Cast", less, to=TensorProto.INT32)
        shape = nodes.op("Shape", f"{_MASK}/Shape", "attention_mask")
        longest = nodes.op("Gather", f"{_MASK}/Gather", shape, nodes.constant(1), axis=0)
        return lengths, nodes.op("Cast", f"{_MASK}/Gather/Cast", longest, to=TensorProto.INT32)

    def _embedding(self) -> str:
        nodes, path = self._nodes, "/model/embed_tokens"
        table = self._linear_weight(EMBEDDINGS)
        if isinstance(table, QuantizedRows):
            table = table.dense()
        stored = nodes.weight(EMBEDDINGS, table.astype(np.float32))
        return nodes.op("Gather", f"{path}/Gather", stored, "input_ids")

    def _skip_norm(
        self, index: int, place: str, x: str, skip: str, name: str = ""
    ) -> tuple[str, str]:
        """Return the norm of ``x + skip``, and the sum."""
        weight = f"model.layers.{index}.{place}_layernorm.weight"
        return self._nodes.skip_norm(
            f"/model/layers.{index}/{place}_layernorm", x, skip, self._vector(name or weight),
            self._config.norm_epsilon, weight, last=bool(name),
        )  # fmt: skip

    def _linear(self, path: str, x: str, name: str) -> str:
        """Append the product with the weight of a layer, and its bias if there is one."""
        product = self._nodes.linear(path, x, self._linear_weight(f"{name}.weight"))
        bias = self._parameters(f"{name}.bias")
        if bias is None:
            return product
        assert isinstance(bias, np.ndarray)
        return self._nodes.add_bias(path, product, bias)

    def _attention(self, index: int, x: str, rest: list[str]) -> str:
        config, path = self._config, f"/model/layers.{index}/attn"
        name = f"{layer(index)}self_attn"
        past, present = (
            [f"{values}.{index}.{part}" for part in ("key", "value")]
            for values in ("past_key_values", "present")
        )
        attended = self._nodes.op(
            "GroupQueryAttention", f"{path}/GroupQueryAttention",
            *self._projections(path, x, name), *past, *rest, "", "", "",
            outputs=(f"{path}/GroupQueryAttention/output_0", *present), domain=MICROSOFT,
            num_heads=config.heads, kv_num_heads=config.kv_heads,
            scale=1 / math.sqrt(config.head_size),
            local_window_size=config.window or -1, softcap=0.0, do_rotary=1,
            rotary_interleaved=0,
        )  # fmt: skip
        return self._linear(f"{path}/o_proj", attended, f"{name}.o_proj")

    def _projections(self, path: str, x: str, name: str) -> tuple[str, str, str]:
        """Return query, key and value, or all three in one and two empty names."""
        parts = ("q_proj", "k_proj", "v_proj")
        if self._packed:
            weights = [self._linear_weight(f"{name}.{part}.weight") for part in parts]
            stacked = stacked_or_none(weights)
            if stacked is not None:
                product = self._nodes.linear(f"{path}/qkv_proj", x, stacked)
                return self._packed_bias(path, product, name), "", ""
        q, k, v = (self._linear(f"{path}/{part}", x, f"{name}.{part}") for part in parts)
        return q, k, v

    def _packed_bias(self, path: str, product: str, name: str) -> str:
        """Add the biases of query, key and value, below each other, if there are any."""
        config = self._config
        widths = {"q_proj": config.query_width, "k_proj": config.kv_width,
                  "v_proj": config.kv_width}  # fmt: skip
        found = {part: self._parameters(f"{name}.{part}.bias") for part in widths}
        if all(bias is None for bias in found.values()):
            return product
        biases = [
            np.zeros(width, np.float32) if (bias := found[part]) is None else np.asarray(bias)
            for part, width in widths.items()
        ]
        return self._nodes.add_bias(f"{path}/qkv_proj", product, np.concatenate(biases))

    def _gated_layer(self, index: int, x: str) -> str:
        """Append ``down(silu(gate(x)) * up(x))``, or a mixture of such layers."""
        if self._config.experts:
            return append_experts(self._nodes, self._config, self._parameters, index, x)
        nodes, path, name = self._nodes, f"/model/layers.{index}/mlp", f"{layer(index)}mlp"
        gate = self._linear(f"{path}/gate_proj", x, f"{name}.gate_proj")
        up = self._linear(f"{path}/up_proj", x, f"{name}.up_proj")
        sigmoid = nodes.op("Sigmoid", f"{path}/act_fn/Sigmoid", gate)
        active = nodes.op("Mul", f"{path}/act_fn/Mul", gate, sigmoid)
        product = nodes.op("Mul", f"{path}/Mul", active, up)
        return self._linear(f"{path}/down_proj", product, f"{name}.down_proj")
