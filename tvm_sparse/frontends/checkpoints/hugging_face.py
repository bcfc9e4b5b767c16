"""Folders in Hugging Face's layout: ``config.json`` beside ``*.safetensors``."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders import DecoderConfig, Parameter
from tvm_sparse.errors import ModelError, ToolError, border
from tvm_sparse.frontends.checkpoints.checkpoint import Checkpoint, weight_files
from tvm_sparse.frontends.checkpoints.compressed_tensors import (
    check_scheme,
    compressed_parameter,
    parameter_of,
)

ARCHITECTURES = (
    "LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Qwen2ForCausalLM",
)  # fmt: skip
"""The classes of transformers whose weights can be read."""

_TABLES = "rotary_emb.inv_freq"
"""What old checkpoints hold beside their weights: a table that follows from the sizes."""


def open_folder(folder: Path) -> Checkpoint:
    """Open a folder; its weights stay in their files until they are read.

    Raises
    ------
    ModelError
        If files are missing or broken, or are of a network that is not of Llama's family.
    ToolError
        If the package `safetensors` is not installed.
    """
    settings = _settings(folder / "config.json")
    with border(ModelError, f"{folder / 'config.json'}: not the sizes of a network"):
        config = _config(settings, folder)
    check_scheme(settings.get("quantization_config") or settings.get("compression_config"), folder)
    tensors = _Tensors(folder)
    names = {parameter_of(name) for name in tensors.names if not name.endswith(_TABLES)}

    def parameter(name: str) -> Parameter | None:
        # What is tied may lie in the files all the same, once or twice.
        return compressed_parameter(name, tensors.names, tensors.read)

    return Checkpoint(folder, config, parameter, names)


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: holds no settings of a network")
    return settings


def _config(settings: Mapping[str, Any], folder: Path) -> DecoderConfig:
    architectures = settings.get("architectures") or ["none"]
    if architectures[0] not in ARCHITECTURES:
        raise ModelError(
            f"{folder}: the architecture {architectures[0]!r} cannot be read; those that can are "
            f"{', '.join(ARCHITECTURES)}"
        )
    if settings.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ModelError(f"{folder}: the activation {settings['hidden_act']!r} cannot be read")
    if float(settings.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ModelError(f"{folder}: heads of which a part is rotated cannot be read")
    heads, hidden = int(settings["num_attention_heads"]), int(settings["hidden_size"])
    head_size = int(settings.get("head_dim") or hidden // heads)
    # transformers 5 has everything about rotation in one entry.
    rotation = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    theta = float(rotation.get("rope_theta") or settings.get("rope_theta") or 10000.0)
    return DecoderConfig(
        layers=int(settings["num_hidden_layers"]),
        hidden=hidden,
        intermediate=int(settings["intermediate_size"]),
        heads=heads,
        kv_heads=int(settings.get("num_key_value_heads") or heads),
        head_size=head_size,
        vocabulary=int(settings["vocab_size"]),
        rope_theta=theta,
        norm_epsilon=float(settings.get("rms_norm_eps", 1e-6)),
        context=int(settings.get("max_position_embeddings", 2048)),
        tied=bool(settings.get("tie_word_embeddings", False)),
        window=_window(settings, folder),
        frequencies=_frequencies(rotation, theta, head_size, folder),
        experts=int(settings.get("num_local_experts") or 0),
        active_experts=int(settings.get("num_experts_per_tok") or 2),
    )


def _window(settings: Mapping[str, Any], folder: Path) -> int:
    """Return how many positions a token attends to, 0 if all."""
    window = int(settings.get("sliding_window") or 0)
    if settings["architectures"][0] != "Qwen2ForCausalLM":
        return window
    if not settings.get("use_sliding_window", False):
        return 0
    if int(settings.get("max_window_layers", 0)) > 0:
        raise ModelError(f"{folder}: layers with and without a sliding window cannot be read")
    return window


def _frequencies(
    rotation: Mapping[str, Any], theta: float, head_size: int, folder: Path
) -> tuple[float, ...] | None:
    """Return the rotary frequencies if they are not those of `theta`.

    The scalings are those of transformers (modeling_rope_utils.py): linear, and Llama 3's.
    """
    kind = rotation.get("rope_type", rotation.get("type", "default"))
    if kind == "default":
        return None
    plain = theta ** -(np.arange(0, head_size, 2) / head_size)
    if kind == "linear":
        return tuple((plain / float(rotation["factor"])).tolist())
    if kind != "llama3":
        raise ModelError(f"{folder}: rotary scaling {kind!r} cannot be read; linear and llama3 can")
    factor, low, high, before = (
        float(rotation[name])
        for name in ("factor", "low_freq_factor", "high_freq_factor",
                     "original_max_position_embeddings")
    )  # fmt: skip
    turns = before * plain / (2 * math.pi)
    # 1 where a pair turns often in the context of the training, 0 where it seldom does.
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return tuple((kept * plain + (1 - kept) * plain / factor).tolist())


class _Tensors:
    """The tensors of all safetensors files of a folder."""

    def __init__(self, folder: Path) -> None:
        try:
            safetensors = importlib.import_module("safetensors")
            # The type of bfloat16 for NumPy, which onnx brings along.
            importlib.import_module("ml_dtypes")
        except ImportError:
            raise ToolError(
                f"{folder}: reading such folders takes the package safetensors: "
                "pip install 'tvm-sparse[safetensors]'"
            ) from None
        paths = weight_files(folder)
        if not paths:
            raise ModelError(f"{folder}: there is no *.safetensors file beside config.json")
        self._files: dict[str, Any] = {}
        for path in paths:
            with border(ModelError, f"{path}: not a safetensors file, or a truncated one"):
                file = safetensors.safe_open(path, framework="numpy")
                self._files |= dict.fromkeys(file.keys(), file)

    @property
    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self._files)

    def read(self, name: str) -> NDArray:
        """Return a tensor; bfloat16 becomes float32."""
        with border(ModelError, f"tensor {name!r} cannot be read"):
            array = np.asarray(self._files[name].get_tensor(name))
            return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
