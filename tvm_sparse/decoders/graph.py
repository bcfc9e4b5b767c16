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
from onnx import helper, numpy_helper

from tvm_sparse.decoders.config import DecoderConfig
from tvm_sparse.decoders.experts import append_experts
from tvm_sparse.decoders.interface import inputs_of, key_lengths, outputs_of
from tvm_sparse.decoders.nodes import MICROSOFT, Nodes, Store
from tvm_sparse.decoders.parameters import (
    BEFORE_GATED,
    BEHIND_GATED,
    EMBEDDINGS,
    HEAD,
    LAST_NORM,
    Parameter,
    Parameters,
    checked,
    layer,
)
from tvm_sparse.decoders.quantized_rows import QuantizedRows, stacked_or_none


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
        inputs_of(config),
        outputs_of(config),
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
        lengths = key_lengths(nodes)
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
            skip = self._attention(index, normal, [*lengths, *self._tables(index)])
            before = "post_attention"
            if config.result_norms:
                skip = self._norm(index, "post_attention_layernorm", skip)
                before = BEFORE_GATED.removesuffix("_layernorm")
            normal, x = self._skip_norm(index, before, x, skip)
            skip = self._gated_layer(index, normal)
            if config.result_norms:
                skip = self._norm(index, BEHIND_GATED, skip)
        normal, _ = self._skip_norm(config.layers, "final_norm", x, skip, LAST_NORM)
        # The head of a tied network may be quantized where the embeddings are not.
        head = self._parameters(HEAD)
        if head is None:
            head = self._linear_weight(EMBEDDINGS)
        if not config.logit_softcap:
            nodes.linear("/lm_head", normal, head, output="logits")
            return
        logits = nodes.linear("/lm_head", normal, head)
        cap = nodes.weight("logit_softcap", np.array(config.logit_softcap, np.float32))
        share = nodes.op("Div", "/lm_head/softcap/Div", logits, cap)
        limited = nodes.op("Tanh", "/lm_head/softcap/Tanh", share)
        nodes.op("Mul", "/lm_head/softcap/Mul", limited, cap, outputs=("logits",))

    def _vector(self, name: str) -> NDArray:
        value = self._parameters(name)
        assert isinstance(value, np.ndarray)
        return value

    def _linear_weight(self, name: str) -> Parameter:
        value = self._parameters(name)
        assert value is not None
        return value

    def _tables(self, index: int) -> list[str]:
        """Return the tables of cosines and sines of a layer."""
        is_local = self._config.is_local(index)
        names = [f"{part}_cache{'_local' * is_local}" for part in ("cos", "sin")]
        if names[0] in self._nodes.initializers:
            return names
        tables = self._config.rotary_tables(is_local)
        return [self._nodes.weight(*named) for named in zip(names, tables, strict=True)]

    def _norm(self, index: int, part: str, x: str) -> str:
        """Append an RMS norm of a layer."""
        name = f"model.layers.{index}.{part}.weight"
        path = f"/model/layers.{index}/{part}"
        return self._nodes.norm(path, x, self._vector(name), self._config.norm_epsilon, name)

    def _embedding(self) -> str:
        nodes, path = self._nodes, "/model/embed_tokens"
        table = self._linear_weight(EMBEDDINGS)
        if isinstance(table, QuantizedRows):
            table = table.dense()
        stored = nodes.weight(EMBEDDINGS, table.astype(np.float32))
        embedded = nodes.op("Gather", f"{path}/Gather", stored, "input_ids")
        if self._config.embedding_scale == 1.0:
            return embedded
        scale = np.array(self._config.embedding_scale, np.float32)
        return nodes.op("Mul", f"{path}/Mul", embedded, nodes.weight("embedding_scale", scale))

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
            *self._projections(index, x, name), *past, *rest, "", "", "",
            outputs=(f"{path}/GroupQueryAttention/output_0", *present), domain=MICROSOFT,
            num_heads=config.heads, kv_num_heads=config.kv_heads,
            scale=config.attention_scale or 1 / math.sqrt(config.head_size),
            local_window_size=config.window_of(index) or -1, softcap=config.softcap, do_rotary=1,
            rotary_interleaved=0,
        )  # fmt: skip
        return self._linear(f"{path}/o_proj", attended, f"{name}.o_proj")

    def _projections(self, index: int, x: str, name: str) -> tuple[str, str, str]:
        """Return query, key and value, or all three in one and two empty names."""
        path, config = f"/model/layers.{index}/attn", self._config
        parts = ("q_proj", "k_proj", "v_proj")
        if self._packed and not config.head_norms:
            weights = [self._linear_weight(f"{name}.{part}.weight") for part in parts]
            stacked = stacked_or_none(weights)
            if stacked is not None:
                product = self._nodes.linear(f"{path}/qkv_proj", x, stacked)
                return self._packed_bias(path, product, name), "", ""
        q, k, v = (self._linear(f"{path}/{part}", x, f"{name}.{part}") for part in parts)
        if config.head_norms:
            q = self._head_norm(index, "q_norm", q, config.heads)
            k = self._head_norm(index, "k_norm", k, config.kv_heads)
        return q, k, v

    def _head_norm(self, index: int, part: str, x: str, heads: int) -> str:
        """Append an RMS norm of each head."""
        nodes, config, path = self._nodes, self._config, f"/model/layers.{index}/attn/{part}"
        split = nodes.constant([0, 0, heads, config.head_size])
        weight = self._vector(f"{layer(index)}self_attn.{part}.weight")
        rows = nodes.op("Reshape", f"{path}/Reshape_1", x, split)
        stored = f"model.layers.{index}.attn.{part}.layernorm.weight"
        normal = nodes.norm(path, rows, weight, config.norm_epsilon, stored)
        flat = nodes.constant([0, 0, heads * config.head_size])
        return nodes.op("Reshape", f"{path}/Reshape_2", normal, flat)

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
        """Append ``down(f(gate(x)) * up(x))``, or a mixture of such layers."""
        if self._config.experts:
            return append_experts(self._nodes, self._config, self._parameters, index, x)
        nodes, path, name = self._nodes, f"/model/layers.{index}/mlp", f"{layer(index)}mlp"
        gate = self._linear(f"{path}/gate_proj", x, f"{name}.gate_proj")
        up = self._linear(f"{path}/up_proj", x, f"{name}.up_proj")
        if self._config.activation == "gelu_tanh":
            active = nodes.op("FastGelu", f"{path}/act_fn/FastGelu", gate, domain=MICROSOFT)
        else:
            sigmoid = nodes.op("Sigmoid", f"{path}/act_fn/Sigmoid", gate)
            active = nodes.op("Mul", f"{path}/act_fn/Mul", gate, sigmoid)
        product = nodes.op("Mul", f"{path}/Mul", active, up)
        return self._linear(f"{path}/down_proj", product, f"{name}.down_proj")
