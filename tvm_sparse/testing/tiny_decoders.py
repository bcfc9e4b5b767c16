"""Tiny random decoders, in the forms that exporters write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"


@dataclass
class GraphWriter:
    """Collects the nodes and weights of a graph, with random weights from a seed."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def weight(self, name: str, values: Any) -> str:
        """Add a constant, and return its name."""
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        *outputs: str,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node called as its first output, and return that."""
        self.nodes.append(
            helper.make_node(
                op_type, inputs, outputs, name=f"/{outputs[0]}", domain=domain, **attributes
            )
        )
        return outputs[0]

    def random(self, *shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        """Return normal random numbers."""
        return (self.rng.standard_normal(shape) * scale).astype("float32")

    def add_input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Add an input of the graph."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def add_output(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        """Add an output of the graph."""
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def save(self, path: Path, opset: int) -> Path:
        """Write the model."""
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path


@dataclass(frozen=True)
class TinyDecoder:
    """A decoder of Llama's shape, as the model builder of onnxruntime-genai writes it.

    Attributes
    ----------
    layers, width, heads, kv_heads, head_dim, hidden, vocabulary, positions : int
        Its sizes; the tables of angles have `positions` rows.
    packed : bool
        Whether queries, keys and values come from one product.
    window : int
        The tokens that a token attends to; -1 for all.
    softcap : float
        The limit of scores; 0 for none.
    bits : int
        The bits of the weights in MatMulNBits; 0 for float32 in MatMul.
    own_rotation : bool
        Whether nodes rotate queries and keys before the attention.
    interleaved : int
        Whether neighbouring channels are rotated.
    names_channels : bool
        Whether the channels of caches have a name instead of a number, as the builder writes them
        since its version 0.18.
    window_cache : bool
        Whether caches hold the tokens of the window only.
    sinks : bool
        Whether heads have scores of their own in the softmax, as those of gpt-oss.
    short : int
        The longest sequence for which `positions` angles are those of short ones; 0 for no others.
    """

    layers: int = 2
    width: int = 32
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    hidden: int = 48
    vocabulary: int = 50
    positions: int = 128
    packed: bool = True
    window: int = -1
    softcap: float = 0.0
    bits: int = 0
    own_rotation: bool = False
    interleaved: int = 0
    names_channels: bool = False
    window_cache: bool = False
    sinks: bool = False
    short: int = 0

    def write(self, path: Path) -> Path:
        """Write the model, and return `path`."""
        out = GraphWriter()
        tokens = ["batch_size", "sequence_length"]
        out.add_input("input_ids", TensorProto.INT64, tokens)
        out.add_input("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"])
        out.add_output("logits", TensorProto.FLOAT, [*tokens, self.vocabulary])
        if self.own_rotation:
            out.add_input("position_ids", TensorProto.INT64, tokens)
        self._lengths(out)
        frequencies = 10000.0 ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        angles = np.arange(self.positions)[:, None] * frequencies
        tables = {"cos": np.cos(angles).astype("float32"), "sin": np.sin(angles).astype("float32")}
        if self.short:
            _choose_tables(out, tables, self.short)
        for name in tables if not self.short else ():
            out.weight(name, tables[name])
        table = out.weight("embedding", out.random(self.vocabulary, self.width))
        residual = out.node("Gather", [table, "input_ids"], "embedded")
        gamma = out.weight("gamma", 1 + out.random(self.width, scale=0.1))
        x = out.node(
            "SimplifiedLayerNormalization", [residual, gamma], "first_norm", epsilon=1e-5, axis=-1
        )
        for i in range(self.layers):
            attended = self._attention(out, x, i)
            channels = self.heads * self.head_dim
            y = self._product(out, attended, f"o{i}", channels, self.width)
            x, residual = self._norm(out, residual, y, f"a{i}")
            gate = self._product(out, x, f"gate{i}", self.width, self.hidden)
            up = self._product(out, x, f"up{i}", self.width, self.hidden)
            silu = out.node("Mul", [gate, out.node("Sigmoid", [gate], f"sig{i}")], f"silu{i}")
            gated = out.node("Mul", [silu, up], f"gated{i}")
            y = self._product(out, gated, f"down{i}", self.hidden, self.width)
            x, residual = self._norm(out, residual, y, f"b{i}")
        self._product(out, x, "logits", self.width, self.vocabulary)
        return out.save(path, 14)

    def _lengths(self, out: GraphWriter) -> None:
        """Compute the inputs of attention from the mask, as the builder does."""
        one = out.weight("one", np.array([1]))
        total = out.node("ReduceSum", ["attention_mask", one], "mask_sum")
        out.node("Cast", [out.node("Sub", [total, one], "past")], "seqlens_k", to=TensorProto.INT32)
        shape = out.node("Shape", ["attention_mask"], "mask_shape")
        extent = out.node("Gather", [shape, out.weight("axis", np.array(1))], "extent", axis=0)
        out.node("Cast", [extent], "total_length", to=TensorProto.INT32)

    def _product(self, out: GraphWriter, x: str, name: str, k: int, n: int) -> str:
        if not self.bits:
            weight = out.weight(f"w_{name}", out.random(k, n, scale=k**-0.5))
            return out.node("MatMul", [x, weight], name)
        block, blocks = 16, -(-k // 16)
        shape = n, blocks, block * self.bits // 8
        codes = out.weight(f"q_{name}", out.rng.integers(0, 256, shape).astype("uint8"))
        spread = out.rng.uniform(0.5, 1.5, n * blocks) * k**-0.5 / 2 ** (self.bits - 2)
        scales = out.weight(f"s_{name}", spread.astype("float32"))
        sizes = {"K": k, "N": n, "bits": self.bits, "block_size": block}
        return out.node("MatMulNBits", [x, codes, scales], name, domain=MICROSOFT, **sizes)

    def _norm(self, out: GraphWriter, residual: str, y: str, name: str) -> tuple[str, str]:
        gamma = out.weight(f"gamma_{name}", 1 + out.random(self.width, scale=0.1))
        results = f"norm_{name}", "", "", f"sum_{name}"
        op_type = "SkipSimplifiedLayerNormalization"
        out.node(op_type, [residual, y, gamma], *results, domain=MICROSOFT, epsilon=1e-5)
        return results[0], results[3]

    def _attention(self, out: GraphWriter, x: str, i: int) -> str:
        channels = {"q": self.heads * self.head_dim}
        channels |= dict.fromkeys("kv", self.kv_heads * self.head_dim)
        if self.packed:
            total = sum(channels.values())
            rows = [self._product(out, x, f"qkv{i}", self.width, total), "", ""]
        else:
            rows = [
                self._product(out, x, f"{name}{i}", self.width, n) for name, n in channels.items()
            ]
        if self.own_rotation:
            for place, name in enumerate("qk"):
                inputs = [rows[place], "position_ids", "cos", "sin"]
                rows[place] = out.node(
                    "RotaryEmbedding", inputs, f"turned_{name}{i}", domain=MICROSOFT,
                    interleaved=self.interleaved,
                )  # fmt: skip
        head_dim = "channels" if self.names_channels else self.head_dim
        shape: list[int | str] = ["batch_size", self.kv_heads, "past", head_dim]
        past, present = (
            [add(f"{which}.{i}.{part}", TensorProto.FLOAT, shape) for part in ("key", "value")]
            for add, which in ((out.add_input, "past_key_values"), (out.add_output, "present"))
        )
        tables = ["", ""] if self.own_rotation else ["cos", "sin"]
        if self.sinks:
            tables += ["", "", out.weight(f"sinks{i}", out.random(self.heads))]
        window_cache = {"sliding_window_cache": 1} if self.window_cache else {}
        return out.node(
            "GroupQueryAttention",
            [*rows, *past, "seqlens_k", "total_length", *tables],
            f"attended{i}",
            *present,
            domain=MICROSOFT,
            num_heads=self.heads,
            kv_num_heads=self.kv_heads,
            do_rotary=int(not self.own_rotation),
            rotary_interleaved=self.interleaved,
            local_window_size=self.window,
            softcap=self.softcap,
            **window_cache,
        )


def _choose_tables(out: GraphWriter, tables: dict[str, NDArray[np.float32]], short: int) -> None:
    """Choose tables by the length of the sequence, as the builder does for LongRoPE."""
    branches = []
    for factor in (2, 1):
        nodes = [
            helper.make_node(
                "Constant", [], [f"{name}_{factor}"],
                value=numpy_helper.from_array(table * np.float32(factor)),
            )
            for name, table in tables.items()
        ]  # fmt: skip
        outputs = [
            helper.make_tensor_value_info(f"{name}_{factor}", TensorProto.FLOAT, table.shape)
            for name, table in tables.items()
        ]
        branches.append(helper.make_graph(nodes, f"tables_{factor}", [], outputs))
    is_long = out.node("Greater", ["extent", out.weight("short", np.array(short))], "is_long")
    out.node("If", [is_long], *tables, then_branch=branches[0], else_branch=branches[1])
