"""Sentences of different lengths in one inference, for `Engine.run_packed`.

The library itself packs the tokens of a padded batch. So the sentences become a padded batch with
its mask here, and the padding, which no kernel computes with, is cut from the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tvm_sparse.errors import InputError, border
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.specs import TensorSpec, unknown_input

Sentences = Sequence[Any] | Mapping[str, Sequence[Any]]
"""Sentences as `Engine.run_packed` takes them."""

Arrays = dict[str, np.ndarray]


def run_packed(
    info: LibraryInfo, run: Callable[[Arrays], Arrays], sentences: Sentences
) -> list[Arrays]:
    """Run sentences by a function that runs a padded batch.

    Raises
    ------
    InputError
        As `Engine.run_packed` says.
    """
    mask = _mask(info)
    found = [_checked(info, number, one) for number, one in enumerate(_each(info, sentences))]
    if not found:
        return []
    lengths = [len(one[mask.name]) for one in found]
    tokens = mask.shape[1]
    longest = tokens if isinstance(tokens, int) and tokens > 0 else max(*lengths, 1)
    if max(lengths) > longest:
        raise InputError(
            f"sentence {int(np.argmax(lengths))} has {max(lengths)} tokens, and the library takes "
            f"{longest}"
        )
    batch = {spec.name: np.zeros((len(found), longest), spec.dtype) for spec in info.inputs}
    for i, one in enumerate(found):
        for name, values in one.items():
            batch[name][i, : len(values)] = values
    outputs = run(batch)
    of_tokens = {spec.name: spec.shape[:2] == mask.shape for spec in info.outputs}
    return [
        {
            name: (array[i, :length] if of_tokens[name] else array[i]).copy()
            for name, array in outputs.items()
        }
        for i, length in enumerate(lengths)
    ]


def _mask(info: LibraryInfo) -> TensorSpec:
    """Return the mask of a library that packs tokens, all of whose tensors are of sentences."""
    if not info.mask:
        raise InputError(
            "the library computes padded tokens, so nothing is packed: compile the model with "
            "padding='drop' (--padding drop), whose error or report says what is against it"
        )
    (mask,) = (spec for spec in info.inputs if spec.name == info.mask)
    for spec in info.inputs:
        if spec.shape != mask.shape:
            raise InputError(f"{spec} is no input of tokens as {mask} is: call run")
    for spec in info.outputs:
        if spec.shape[:1] != mask.shape[:1]:
            raise InputError(f"{spec} has no axis of sentences: call run")
    return mask


def _each(info: LibraryInfo, sentences: Sentences) -> list[Mapping[str, Any]]:
    """Return the inputs of each sentence by name."""
    if isinstance(sentences, Mapping):
        names = list(sentences)
        counts = {name: len(values) for name, values in sentences.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} for {name!r}" for name, count in counts.items())
            raise InputError(f"the inputs have different numbers of sentences: {listed}")
        rows = zip(*sentences.values(), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]
    if not isinstance(sentences, Sequence) or isinstance(sentences, str | bytes):
        raise InputError(
            "sentences must be a list of arrays or of dicts of arrays, or a dict of lists of "
            f"arrays; got {type(sentences).__name__}"
        )
    needed = [spec.name for spec in info.inputs if spec.name != info.mask]
    found: list[Mapping[str, Any]] = []
    for one in sentences:
        if not isinstance(one, Mapping) and len(needed) != 1:
            raise InputError(
                f"a sentence has {len(needed)} inputs ({', '.join(needed)}): give a dict of arrays"
            )
        found.append(one if isinstance(one, Mapping) else {needed[0]: one})
    return found


def _checked(info: LibraryInfo, number: int, sentence: Mapping[str, Any]) -> Arrays:
    """Return the inputs of a sentence as arrays of one length, the mask among them."""
    specs = {spec.name: spec for spec in info.inputs}
    for name in sentence:
        if name not in specs:
            raise unknown_input(name, specs)
    found: Arrays = {}
    for name, spec in specs.items():
        if name not in sentence:
            if name == info.mask:
                continue
            raise InputError(f"sentence {number}: missing input {name!r}")
        what = f"sentence {number}, input {name!r}"
        with border(InputError, f"{what}: not an array"):
            array = np.asarray(sentence[name])
        if array.ndim != 1:
            raise InputError(f"{what}: expected one axis of tokens, got shape {array.shape}")
        if array.size and array.dtype != np.dtype(spec.dtype):
            raise InputError(
                f"{what}: expected dtype {spec.dtype}, got {array.dtype}; convert it with "
                f".astype({spec.dtype!r})"
            )
        found[name] = array
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} in {name!r}" for name, length in lengths.items())
        raise InputError(f"sentence {number} has different numbers of tokens: {listed}")
    length = next(iter(lengths.values()), 0)
    return {info.mask: np.ones(length, specs[info.mask].dtype), **found}
