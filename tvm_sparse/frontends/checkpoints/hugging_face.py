"""Folders in Hugging Face's layout: ``config.json`` beside ``*.safetensors``."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders import Parameter
from tvm_sparse.errors import ModelError, ToolError, border
from tvm_sparse.frontends.checkpoints.checkpoint import Checkpoint, weight_files
from tvm_sparse.frontends.checkpoints.compressed_tensors import (
    check_scheme,
    compressed_parameter,
    parameter_of,
)
from tvm_sparse.frontends.checkpoints.families import sizes_of
from tvm_sparse.frontends.checkpoints.layout import Layout

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
        family, config = sizes_of(settings, folder)
    check_scheme(settings.get("quantization_config") or settings.get("compression_config"), folder)
    tensors = _Tensors(folder)
    stored = {parameter_of(name) for name in tensors.names if not name.endswith(_TABLES)}
    layout = Layout(family, config)

    def parameter(name: str) -> Parameter | None:
        # What is tied may lie in the files all the same, once or twice.
        place = layout.place(name)
        value = compressed_parameter(place.stored, tensors.names, tensors.read)
        return None if value is None else place.of(value)

    names = {name for whole in stored for name in layout.names(whole)}
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
                if path.exists() and not path.is_file():
                    raise ValueError("it is a folder, a device or a pipe")
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
