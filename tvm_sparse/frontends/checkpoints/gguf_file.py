"""GGUF files of llama.cpp: their sizes and their weights, in the rows of Hugging Face.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, which the package
`gguf` reads. Q4_0 and Q8_0 stay what they are: blocks of 32 columns with a scale of float16.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders import DecoderConfig, Parameter, QuantizedRows, check_size
from tvm_sparse.decoders.parameters import EMBEDDINGS, HEAD, ROUTER, expert_names
from tvm_sparse.errors import ModelError, border
from tvm_sparse.files.gguf import gguf_reader
from tvm_sparse.frontends.checkpoints.checkpoint import Checkpoint

_log = logging.getLogger("tvm_sparse")

_ARCHITECTURES = {"llama": True, "qwen2": False}
"""The architectures that can be read, and whether their files rotate neighbouring rows."""

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": ROUTER,
}
"""Hugging Face's words for GGUF's."""

_STACKS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
"""The stacked weights of all experts, in the order of `expert_names`."""

_FREQUENCIES = "rope_freqs.weight"
"""The tensor of divisors of the rotary frequencies, as Llama 3's scaling has them."""

_BLOCK = 32
"""The columns of a block of Q4_0 and of Q8_0."""


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file; its tensors stay in the file until they are read.

    Raises
    ------
    ModelError
        If the file is no whole GGUF file of a network of Llama's family.
    ToolError
        If the package `gguf` is not installed.
    """
    with gguf_reader(path, ModelError) as (reader, dequantize):
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    file = _GgufFile(path, fields, tensors, dequantize)
    with border(ModelError, f"{path}: its fields are not the sizes of a network"):
        config = file.config()
    return Checkpoint(path, config, file.parameter, file.names)


class _GgufFile:
    """The fields and tensors of an open file."""

    def __init__(
        self,
        path: Path,
        fields: dict[str, Any],
        tensors: dict[str, Any],
        dequantize: Callable[[NDArray, Any], NDArray],
    ) -> None:
        self._path = path
        self._fields = fields
        self._tensors = tensors
        self._dequantize = dequantize
        self._architecture = str(fields.get("general.architecture"))
        if self._architecture not in _ARCHITECTURES:
            raise ModelError(
                f"{path}: the architecture {self._architecture!r} cannot be read; those that can "
                f"are {', '.join(_ARCHITECTURES)}"
            )
        self._places = {
            found: (name, expert)
            for name, tensor in tensors.items()
            for found, expert in _parameters_in(name, tensor)
        }

    @property
    def names(self) -> list[str]:
        """The names of the parameters, by Hugging Face's words."""
        return [name for name in self._places if name != _FREQUENCIES]

    def config(self) -> DecoderConfig:
        """Return the sizes.

        Raises
        ------
        ModelError
            If the file has none, or is of a network that is not Llama's.
        """
        scaling = str(self._field("rope.scaling.type", "none"))
        if scaling not in ("none", "linear"):
            raise ModelError(f"{self._path}: rotary scaling {scaling!r} cannot be read")
        heads, hidden = self._size("attention.head_count"), self._size("embedding_length")
        head_size = int(self._field("attention.key_length", hidden // max(heads, 1)))
        check_size("head_size", head_size)
        if self._field("attention.value_length", head_size) != head_size:
            raise ModelError(f"{self._path}: heads of values have another size than those of keys")
        rotated = int(self._field("rope.dimension_count", head_size))
        if rotated != head_size:
            raise ModelError(
                f"{self._path}: {rotated} of {head_size} channels of a head are rotated; files "
                "where all are can be read"
            )
        if "token_embd.weight" not in self._tensors:
            raise ModelError(f"{self._path}: there is no tensor 'token_embd.weight'")
        theta = float(self._field("rope.freq_base", 10000.0))
        return DecoderConfig(
            layers=self._size("block_count"),
            hidden=hidden,
            intermediate=self._size("feed_forward_length"),
            heads=heads,
            kv_heads=int(self._field("attention.head_count_kv", heads)),
            head_size=head_size,
            vocabulary=int(self._tensors["token_embd.weight"].shape[1]),
            rope_theta=theta,
            norm_epsilon=float(self._field("attention.layer_norm_rms_epsilon", 1e-5)),
            context=self._size("context_length"),
            tied="output.weight" not in self._tensors,
            window=int(self._field("attention.sliding_window", 0)),
            frequencies=self._frequencies(theta, head_size, scaling),
            experts=int(self._field("expert_count", 0)),
            active_experts=int(self._field("expert_used_count", 2)),
        )

    def _field(self, name: str, default: Any) -> Any:
        value = self._fields.get(f"{self._architecture}.{name}", default)
        if isinstance(value, list):
            # Networks whose layers differ have a list.
            if len(set(value)) != 1:
                raise ModelError(f"{self._path}: layers of different {name}: {value}")
            return value[0]
        return value

    def _size(self, name: str) -> int:
        value = self._field(name, None)
        if value is None:
            raise ModelError(f"{self._path}: there is no field '{self._architecture}.{name}'")
        return int(value)

    def _frequencies(self, theta: float, head_size: int, scaling: str) -> tuple[float, ...] | None:
        """Return the rotary frequencies if they are not those of `theta`."""
        factor = float(self._field("rope.scaling.factor", 1.0)) if scaling == "linear" else 1.0
        divisors = self._tensors.get(_FREQUENCIES)
        if divisors is None and factor == 1.0:
            return None
        plain = theta ** -(np.arange(0, head_size, 2) / head_size) / factor
        if divisors is not None:
            values = self._dequantize(divisors.data, divisors.tensor_type).ravel()
            if values.shape != plain.shape or not (values > 0).all():
                raise ModelError(f"{self._path}: {_FREQUENCIES!r} has no divisor for each pair")
            plain = plain / values
        return tuple(plain.tolist())

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter that Hugging Face calls `name`."""
        place = self._places.get(name)
        if place is None and name == HEAD:
            place = self._places[EMBEDDINGS]
        if place is None:
            return None
        own, expert = place
        tensor = self._tensors[own]
        with border(ModelError, f"the tensor {own!r} cannot be read"):
            data = np.asarray(tensor.data)
            data = data if expert is None else data[expert]
            value = self._value(own, tensor.tensor_type, data, is_matrix=name != EMBEDDINGS)
        if _ARCHITECTURES[self._architecture] and own.split(".")[-2] in ("attn_q", "attn_k"):
            heads = self._size("attention.head_count")
            if own.split(".")[-2] == "attn_k":
                heads = int(self._field("attention.head_count_kv", heads))
            order = _halves(value.shape[0], heads)
            return value.take(order) if isinstance(value, QuantizedRows) else value[order]
        return value

    def _value(self, name: str, type_: Any, data: NDArray, is_matrix: bool) -> Parameter:
        kind = type_.name
        if kind in ("F32", "F16"):
            return data
        if kind in ("Q4_0", "Q8_0") and is_matrix and data.ndim == 2:
            return _blocks(kind, data)
        if kind not in ("BF16", "Q4_0", "Q8_0"):
            _log.warning(
                "%s: the tensor %r is of type %s and is read as float32, which makes it slow; "
                "`llama-quantize --pure MODEL Q4_0`, or `tvm-sparse quantize --weights int4`, "
                "make fast files",
                self._path, name, kind,
            )  # fmt: skip
        return np.asarray(self._dequantize(data, type_), np.float32)


def _parameters_in(name: str, tensor: Any) -> list[tuple[str, int | None]]:
    """Return Hugging Face's names of what a tensor holds, and the expert that each belongs to.

    An unknown tensor keeps its own name.
    """
    found = re.fullmatch(r"(?:blk\.(?P<layer>\d+)\.)?(?P<stem>\w+)\.(?P<kind>\w+)", name)
    if found is None or found["stem"] not in (*_NAMES, *_STACKS):
        return [(name, None)]
    within = f"model.layers.{found['layer']}." if found["layer"] is not None else ""
    if found["stem"] in _NAMES:
        return [(f"{within}{_NAMES[found['stem']]}.{found['kind']}", None)]
    part = _STACKS.index(found["stem"])
    return [
        (f"{within}{expert_names(expert)[part]}.{found['kind']}", expert)
        for expert in range(tensor.data.shape[0])
    ]


def _blocks(kind: str, data: NDArray[np.uint8]) -> QuantizedRows:
    """Return the blocks of a matrix, each a scale of float16 and then 32 numbers.

    Of the bytes of Q4_0, the low halves are the first 16 columns and the high halves the others.
    """
    width = 2 + (_BLOCK // 2 if kind == "Q4_0" else _BLOCK)
    blocks = data.reshape(data.shape[0], -1, width)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    codes, columns = blocks[..., 2:], blocks.shape[1] * _BLOCK
    if kind == "Q8_0":
        # Signed bytes; the operator's codes begin at 0.
        return QuantizedRows(codes ^ np.uint8(0x80), scales, columns, 8)
    low, high = codes & np.uint8(15), codes >> np.uint8(4)
    pairs = np.concatenate((low, high), axis=-1)
    return QuantizedRows(pairs[..., ::2] | (pairs[..., 1::2] << np.uint8(4)), scales, columns)


def _halves(rows: int, heads: int) -> NDArray[np.integer]:
    """Return the rows of rotated heads in Hugging Face's order: first parts, then second parts.

    llama.cpp's converter puts the two rows of a pair beside each other.
    """
    if rows % (2 * heads):
        raise ModelError(f"{rows} rows are not {heads} heads of pairs")
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()
