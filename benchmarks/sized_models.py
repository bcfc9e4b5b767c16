"""Seeded models of `tvm_sparse.zoo.recipes` with the sizes that a benchmark asks for."""

from __future__ import annotations

import re
from pathlib import Path

from tvm_sparse.errors import TvmSparseError
from tvm_sparse.zoo import recipes


def sized(name: str, cache: Path) -> tuple[Path, dict[str, tuple[int, ...]]]:
    """Return the file of a model, which is made if it is not there, and the shapes of its inputs.

    Parameters
    ----------
    name : str
        A name of `tvm_sparse.zoo.recipes`, with a batch (``resnet50-95:8``) or a batch and tokens
        (``bert-base-95:8x384``) after it if those of its recipe are not meant.
    cache : Path
        Folder of the file.
    """
    model, _, extents = name.partition(":")
    if extents and not re.fullmatch(r"\d+(x\d+)?", extents):
        raise TvmSparseError(f"{name}: write MODEL, MODEL:BATCH or MODEL:BATCHxTOKENS")
    made, path = recipes.recipe(model), cache / f"{model}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made.build(path)
    first = tuple(map(int, extents.split("x"))) if extents else ()
    return path, {k: (*first, *shape[len(first) :]) for k, shape in made.shapes.items()}
