"""What lies beside a language model: its tokenizer, and the tokens that end a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tvm_sparse.errors import InputError, border
from tvm_sparse.generation import gguf_tokenizer

TOKENIZER = "tokenizer.json"

SETTINGS = ("generation_config.json", "genai_config.json", "config.json")
"""Files that may say which tokens end a text: those of Hugging Face's transformers, and of
onnxruntime-genai. The first that says it counts."""


def folder_of(model: Path) -> Path:
    """Return the folder of a model, which may be a folder itself."""
    return model if model.is_dir() else model.parent


def tokenizer_beside(model: Path) -> Path:
    """Return the file of the tokenizer, which may be a GGUF model itself.

    Raises
    ------
    InputError
        If there is none.
    """
    path = folder_of(model) / TOKENIZER
    if not path.is_file():
        if model.suffix == gguf_tokenizer.SUFFIX:
            return model
        raise InputError(
            f"{path}: there is no tokenizer beside the model; name one by --tokenizer FILE (a "
            "tokenizer.json, or the GGUF file of the model), or give numbers of tokens by --ids"
        )
    return path


def stop_tokens_beside(model: Path, tokenizer: Path | None = None) -> frozenset[int]:
    """Return the tokens that end a text, as a file beside the model says; none if none says it.

    A GGUF file, the model or the one that holds the tokenizer, says it itself.

    Raises
    ------
    InputError
        If such a file is no JSON, or names something else than numbers.
    """
    for name in SETTINGS:
        path = folder_of(model) / name
        if not path.is_file():
            continue
        with border(InputError, f"{path}: cannot be read", "; mend it or move it away"):
            said = _end_token(json.loads(path.read_text("utf-8")))
            if said is not None:
                tokens = said if isinstance(said, list) else [said]
                return frozenset(int(token) for token in tokens)
    for file in (tokenizer, model):
        if file is not None and file.suffix == gguf_tokenizer.SUFFIX:
            return gguf_tokenizer.stop_tokens(file)
    return frozenset()


def _end_token(settings: Any) -> Any:
    """Return ``eos_token_id`` of a file, which onnxruntime-genai writes below ``model``."""
    found = settings.get("eos_token_id")
    model = settings.get("model")
    return model.get("eos_token_id") if found is None and isinstance(model, dict) else found
