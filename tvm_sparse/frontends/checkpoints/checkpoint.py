"""The sizes and weights of a language model, whatever file they are from."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_sparse.decoders import (
    DecoderConfig,
    Parameter,
    parameter_names,
    quantize_rows,
    write_decoder,
)
from tvm_sparse.decoders.parameters import EMBEDDINGS, HEAD, ROUTER
from tvm_sparse.errors import ModelError, border

_INDEX = "model.safetensors.index.json"
"""The file that says which weights lie in which of several files."""


def weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights of a folder in Hugging Face's layout.

    Some folders hold the weights a second time, by other names, in a file that is not listed.

    Raises
    ------
    ModelError
        If the index names a file that is not in the folder itself.
    """
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        names = sorted({*index["weight_map"].values()})
        outside = [name for name in names if not _is_plain(name)]
    # Without an index, or with a broken one, all that is there is taken.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = folder / "model.safetensors"
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if outside:
        raise ModelError(f"{folder / _INDEX}: {outside[0]!r} is no file of the folder")
    return [folder / name for name in names]


def _is_plain(name: str) -> bool:
    """Whether a name is one of a file in a folder, and leads nowhere else."""
    return Path(name).name == name and name not in ("", "..") and "\0" not in name


@dataclass(frozen=True)
class Checkpoint:
    """A language model of Llama's family in a file or a folder.

    Attributes
    ----------
    path : Path
        The file or folder.
    config : DecoderConfig
        Its sizes.
    read : callable
        Returns a parameter by Hugging Face's name, None if there is none.
    names : collection of str
        The names of all parameters that the files hold, by Hugging Face's words.
    """

    path: Path
    config: DecoderConfig
    read: Callable[[str], Parameter | None]
    names: Collection[str]

    def write(self, path: Path, block: int = 0) -> Path:
        """Write the model as ONNX, in the form of onnxruntime-genai's builder.

        Parameters
        ----------
        path : Path
            The file to write; the weights of large models go to ``<path>.data``.
        block : int
            The columns that share a scale: matrices of floats, other than embeddings and routers,
            are rounded to int4. 0 leaves them as they are.

        Raises
        ------
        ModelError
            If weights are missing, do not fit, or are not part of a network of Llama's family.
        OutputError
            If the file cannot be written.
        """
        unknown = sorted(set(self.names) - parameter_names(self.config))
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ModelError(
                f"{self.path}: the weight {unknown[0]!r}{more} is no part of the networks that can "
                "be read: Llama's, Mistral's, Mixtral's, Qwen's, Phi 3's and Gemma's"
            )
        try:
            with border(ModelError, "its weights cannot be read"):
                return write_decoder(path, self.config, lambda name: self._parameter(name, block))
        except ModelError as error:
            raise ModelError(f"{self.path}: {error}") from error

    def _parameter(self, name: str, block: int) -> Parameter | None:
        value = self.read(name)
        if not block:
            return value
        if name == HEAD and value is None and self.config.tied:
            value = self.read(EMBEDDINGS)
        is_rounded = name != EMBEDDINGS and ROUTER not in name
        if isinstance(value, np.ndarray) and value.ndim == 2 and is_rounded:
            try:
                return quantize_rows(value, block)
            except ModelError as error:
                raise ModelError(f"the weight {name!r}: {error}") from error
        return value
