"""Tiny random decoders in the forms of exporters: Attention of the standard, or written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from tvm_sparse.testing.tiny_decoders import GraphWriter
from tvm_sparse.testing.tiny_mixtures import write_mixture
from tvm_sparse.testing.tiny_positions import biases, count_positions
from tvm_sparse.testing.tiny_sinks import softmax_with_sinks


@dataclass(frozen=True)
class TinyExport:
    """A decoder of one attention and one product a layer, with position ids and a mask.

    Attributes
    ----------
    form : str
        ``written out``: products and a softmax, as optimum exports them. ``standard``: Attention
        with past keys. ``rows``: the same on tensors ``(batch, tokens, channels)``. ``scatter``:
        TensorScatter writes into tensors of `positions` places. ``joined``: Attention on joined
        tensors, as torch.onnx writes it with opset 23.
    layers, width, heads, kv_heads, head_dim, vocabulary, positions : int
        Its sizes.
    window : int
        The tokens that a token attends to; 0 for all.
    softcap : float
        The limit of scores; 0 for none.
    is_bool : bool
        Whether the mask is boolean.
    tied : bool
        Whether the head is the table of embeddings, and keys are turned as tensors of three
        dimensions, as torch.onnx writes both.
    counts : bool
        Whether the model counts positions from the past tokens, and casts what it caches, as
        optimum writes models without an input of positions.
    room : int
        The tokens for which the mask reads a table, as in GPT-Neo; 0 for no table.
    reads_past : bool
        Whether something else depends on the number of past tokens, which is not supported.
    slopes : bool
        Whether scores grow from position to position, by a slope of each head (ALiBi). Without a
        form of its own, the mask has it; written out, it is a sum of three dimensions, as in Bloom.
    is_limited : bool
        Whether hidden scores are limited from below, as in XGLM.
    sinks : bool
        Whether each head has one more score in the softmax, as in gpt-oss.
    experts : int
        The experts of a mixture behind each attention; 0 for no mixture.
    """

    form: str
    layers: int = 2
    width: int = 32
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    vocabulary: int = 50
    positions: int = 64
    window: int = 0
    softcap: float = 0.0
    is_bool: bool = False
    tied: bool = False
    counts: bool = False
    room: int = 0
    reads_past: bool = False
    slopes: bool = False
    is_limited: bool = False
    sinks: bool = False
    experts: int = 0

    def write(self, path: Path) -> Path:
        """Write the model, and return `path`."""
        out, tokens = GraphWriter(), ["batch_size", "sequence_length"]
        out.add_input("input_ids", TensorProto.INT64, tokens)
        if self.form == "scatter":
            out.add_input("write_indices", TensorProto.INT64, [1])
            out.add_input("nonpad_kv_seqlen", TensorProto.INT64, [1])
        else:
            out.add_input("attention_mask", TensorProto.INT64, ["batch_size", "total_length"])
        if self.counts:
            count_positions(out)
        else:
            out.add_input("position_ids", TensorProto.INT64, tokens)
        out.add_output("logits", TensorProto.FLOAT, [*tokens, self.vocabulary])
        table = out.weight("embedding", out.random(self.vocabulary, self.width))
        x = out.node("Gather", [table, "input_ids"], "embedded")
        cos, sin = self._angles(out)
        for i in range(self.layers):
            y = self._layer(out, x, cos, sin, i)
            x = out.node("Add", [x, y], f"sum{i}")
            if self.experts:
                y = write_mixture(out, x, self.width, self.experts, i)
                x = out.node("Add", [x, y], f"mixed{i}")
        if self.reads_past:
            shape = out.node("Shape", ["past_key_values.0.key"], "shape_of_past")
            past = out.node("Gather", [shape, out.weight("two", np.array(2))], "past_length")
            x = out.node(
                "Mul", [x, out.node("Cast", [past], "factor", to=TensorProto.FLOAT)], "bad"
            )
        if self.tied:
            head = out.node("Transpose", [table], "head", perm=[1, 0])
        else:
            weight = out.random(self.width, self.vocabulary, scale=self.width**-0.5)
            head = out.weight("head", weight)
        out.node("MatMul", [x, head], "logits")
        return out.save(path, 24 if self.form == "scatter" else 23)

    def _angles(self, out: GraphWriter) -> tuple[str, str]:
        """Compute cosines and sines ``(1, 1, tokens, head_dim)`` of position ids, as Llama does."""
        frequencies = 100.0 ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        row = out.weight("frequencies", frequencies.astype("float32")[None])
        axis = out.weight("axis", np.array([-1]))
        positions = out.node("Cast", ["position_ids"], "floats", to=TensorProto.FLOAT)
        column = out.node("Unsqueeze", [positions, axis], "column")
        half = out.node("MatMul", [column, row], "half_angles")
        whole = out.node("Concat", [half, half], "angles", axis=-1)
        one = out.weight("one", np.array([1]))
        both = [
            out.node("Unsqueeze", [out.node(name, [whole], f"{name}_rows"), one], f"{name}_all")
            for name in ("Cos", "Sin")
        ]
        return both[0], both[1]

    def _layer(self, out: GraphWriter, x: str, cos: str, sin: str, i: int) -> str:
        sizes = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}
        heads = {}
        for name, count in sizes.items():
            weight = out.weight(
                f"w{name}{i}", out.random(self.width, count * self.head_dim, scale=self.width**-0.5)
            )
            rows = out.node("MatMul", [x, weight], f"{name}_rows{i}")
            shape = out.weight(f"{name}_shape{i}", np.array([0, 0, count, self.head_dim]))
            split = out.node("Reshape", [rows, shape], f"{name}_split{i}")
            heads[name] = out.node("Transpose", [split], f"{name}{i}", perm=[0, 2, 1, 3])
        for name in "qk":
            heads[name] = self._rotated(out, heads[name], cos, sin)
        extent: int | str = self.positions if self.form == "scatter" else "past_length"
        shape_of_past: Sequence[int | str] = ["batch_size", self.kv_heads, extent, self.head_dim]
        past, present = (
            [add(f"{which}.{i}.{part}", TensorProto.FLOAT, shape_of_past) for part in _PARTS]
            for add, which in ((out.add_input, "past_key_values"), (out.add_output, "present"))
        )
        attend = self._written_out if self.form == "written out" else self._attention
        y = attend(out, heads, past, present, i)
        rows = y
        if self.form != "rows":
            turned = out.node("Transpose", [y], f"y_turned{i}", perm=[0, 2, 1, 3])
            flat = out.weight(f"flat{i}", np.array([0, 0, -1]))
            rows = out.node("Reshape", [turned, flat], f"y_rows{i}")
        channels = self.heads * self.head_dim
        weight = out.weight(f"wo{i}", out.random(channels, self.width, scale=channels**-0.5))
        return out.node("MatMul", [rows, weight], f"out{i}")

    def _rotated(self, out: GraphWriter, x: str, cos: str, sin: str) -> str:
        half = self.head_dim // 2
        axes = out.weight(f"{x}_axes", np.array([3]))
        ends = [out.weight(f"{x}_{n}", np.array([n])) for n in (0, half, self.head_dim)]
        first, second = (
            out.node("Slice", [x, ends[j], ends[j + 1], axes], f"{x}_half{j}") for j in (0, 1)
        )
        negative = out.node("Neg", [second], f"{x}_negative")
        turned = out.node("Concat", [negative, first], f"{x}_turned", axis=-1)
        products = [
            out.node("Mul", [x, cos], f"{x}_cos"),
            out.node("Mul", [turned, sin], f"{x}_sin"),
        ]
        return out.node("Add", products, f"{x}_rotated")

    def _attention(
        self, out: GraphWriter, heads: dict[str, str], past: list[str], present: list[str], i: int
    ) -> str:
        inputs, outputs = list(heads.values()), [f"y{i}"]
        sizes: dict[str, Any] = {}
        if self.form == "rows":
            flat = out.weight(f"flat_rows{i}", np.array([0, 0, -1]))
            for place, name in enumerate(inputs):
                turned = out.node("Transpose", [name], f"{name}_back", perm=[0, 2, 1, 3])
                inputs[place] = out.node("Reshape", [turned, flat], f"{name}_flat")
            sizes = {"q_num_heads": self.heads, "kv_num_heads": self.kv_heads}
        if self.form == "scatter":
            for place in (0, 1):
                operands = [past[place], inputs[place + 1], "write_indices"]
                inputs[place + 1] = out.node("TensorScatter", operands, present[place], axis=2)
            inputs += ["", "", "", "nonpad_kv_seqlen"]
        elif self.form == "joined":
            inputs[1:] = [*self._repeated(out, heads, past, present), self._mask(out)]
        else:
            has_mask = self.window or self.slopes
            inputs += [self._mask(out) if has_mask else "", *past]
            outputs += present
        return out.node(
            "Attention", inputs, *outputs, is_causal=int("mask" not in inputs[3:4]),
            softcap=self.softcap,
            **sizes,
        )  # fmt: skip

    def _mask(self, out: GraphWriter) -> str:
        """Return a mask of the present tokens, computed as transformers does."""
        if any("mask" in node.output for node in out.nodes):
            return "mask"
        shape = out.node("Shape", ["attention_mask"], "mask_shape")
        one, zero = out.weight("i1", np.array(1)), out.weight("i0", np.array(0))
        total = out.node("Gather", [shape, one], "total")
        places = out.node("Range", [zero, total, one], "places")
        axis = out.weight("last_axis", np.array([-1]))
        own = out.node("Unsqueeze", ["position_ids", axis], "own")
        seen = out.node("LessOrEqual", [places, own], "causal")
        if self.window:
            edge = out.node("Sub", [own, out.weight("window", np.array(self.window))], "edge")
            seen = out.node("And", [seen, out.node("Greater", [places, edge], "near")], "in_window")
        given = out.node("Cast", ["attention_mask"], "given", to=TensorProto.BOOL)
        middle = out.weight("middle", np.array([1]))
        seen = out.node("And", [seen, out.node("Unsqueeze", [given, middle], "wide")], "visible")
        if self.room:
            table = out.weight("mask_table", np.ones((1, 1, self.room), bool))
            ends = [out.weight("z1", np.array([0])), out.node("Unsqueeze", ["total", "z1"], "t1")]
            part = out.node("Slice", [table, *ends, out.weight("a2", np.array([2]))], "table_part")
            seen = out.node("And", [seen, part], "in_table")
        if self.is_bool:
            return out.node("Unsqueeze", [seen, middle], "mask")
        limits = [out.weight("nothing", np.float32(0)), out.weight("low", np.float32(-3.4e38))]
        numbers = out.node("Where", [seen, *limits], "added")
        if self.slopes and self.form != "written out":
            whole = out.node("Unsqueeze", [numbers, middle], "all_heads")
            return out.node("Add", [whole, biases(out, self.heads)], "mask")
        return out.node("Unsqueeze", [numbers, middle], "mask")

    def _repeated(
        self, out: GraphWriter, heads: dict[str, str], past: list[str], present: list[str]
    ) -> list[str]:
        """Append new keys and values to caches; return both for all heads of queries."""
        repeated = []
        for cache, new, name in zip(past, (heads["k"], heads["v"]), present, strict=True):
            if self.counts:
                joined = out.node("Concat", [cache, new], f"{name}_joined_rows", axis=2)
                whole = out.node("Cast", [joined], name, to=TensorProto.FLOAT)
            else:
                whole = out.node("Concat", [cache, new], name, axis=2)
            group = self.heads // self.kv_heads
            axis = out.weight(f"{name}_axis", np.array([2]))
            shape = out.node("Shape", [whole], f"{name}_shape")
            extents = [
                out.node(
                    "Gather", [shape, out.weight(f"{name}_{n}", np.array([n]))], f"{name}_d{n}"
                )
                for n in range(4)
            ]
            count = out.weight(f"{name}_group", np.array([group]))
            wide = out.node("Concat", [*extents[:2], count, *extents[2:]], f"{name}_wide", axis=0)
            split = out.node("Unsqueeze", [whole, axis], f"{name}_split")
            copies = out.node("Expand", [split, wide], f"{name}_copies")
            all_heads = out.weight(f"{name}_heads", np.array([self.heads]))
            flat = [extents[0], all_heads, *extents[2:]]
            joined = out.node("Concat", flat, f"{name}_joined", axis=0)
            repeated.append(out.node("Reshape", [copies, joined], f"{name}_repeated"))
        return repeated

    def _written_out(
        self, out: GraphWriter, heads: dict[str, str], past: list[str], present: list[str], i: int
    ) -> str:
        repeated = self._repeated(out, heads, past, present)
        keys = self._turned(out, repeated[0], i)
        scores = out.node("MatMul", [heads["q"], keys], f"scores{i}")
        if self.slopes:
            scores = out.node("Add", [scores, biases(out, self.heads)], f"biased{i}")
        root = out.weight(f"root{i}", np.float32(self.head_dim**0.5))
        scores = out.node("Div", [scores, root], f"scaled{i}")
        if self.softcap:
            cap = out.weight(f"cap{i}", np.float32(self.softcap))
            limited = out.node("Tanh", [out.node("Div", [scores, cap], f"share{i}")], f"tanh{i}")
            scores = out.node("Mul", [limited, cap], f"capped{i}")
        if self.is_bool:
            low = out.weight(f"low{i}", np.float32(-3.4e38))
            masked = out.node("Where", [self._mask(out), scores, low], f"masked{i}")
        else:
            masked = out.node("Add", [scores, self._mask(out)], f"masked{i}")
        if self.is_limited:
            least = out.weight(f"least{i}", np.float32(-3.4e38))
            masked = out.node("Max", [masked, least], f"limited{i}")
        if self.sinks:
            weights = softmax_with_sinks(out, masked, self.heads, i)
        else:
            weights = out.node("Softmax", [masked], f"weights{i}", axis=-1)
        return out.node("MatMul", [weights, repeated[1]], f"y{i}")

    def _turned(self, out: GraphWriter, keys: str, i: int) -> str:
        if not self.tied:
            return out.node("Transpose", [keys], f"kt{i}", perm=[0, 1, 3, 2])
        three = out.weight(f"three{i}", np.array([self.heads, -1, self.head_dim]))
        four = out.weight(f"four{i}", np.array([1, self.heads, self.head_dim, -1]))
        rows = out.node("Reshape", [keys, three], f"k_three{i}")
        turned = out.node("Transpose", [rows], f"k_turned{i}", perm=[0, 2, 1])
        return out.node("Reshape", [turned, four], f"kt{i}")


_PARTS = ("key", "value")
