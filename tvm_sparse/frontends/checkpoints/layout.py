"""Where the parameters of a decoder lie in the files of transformers' networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tvm_sparse.decoders import DecoderConfig, Parameter, QuantizedRows
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.checkpoints.families import Family

_QKV, _GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
_FUSED = {"qkv_proj": _QKV, "gate_up_proj": _GATE_UP}


MIXTURE = ("block_sparse_moe", "w1", "w3", "w2")
"""What parameters of a decoder call a mixture, and gate, up and down of its experts."""


@dataclass(frozen=True)
class Place:
    """Where a parameter lies.

    Attributes
    ----------
    stored : str
        The name in the files.
    begin, end : int
        Its rows there; all of them if `end` is 0.
    more : float
        What is added to it.
    """

    stored: str
    begin: int = 0
    end: int = 0
    more: float = 0.0

    def of(self, value: Parameter) -> Parameter:
        """Return the parameter, which is a part of what is stored.

        Raises
        ------
        ModelError
            If that has fewer rows.
        """
        if self.end > value.shape[0]:
            raise ModelError(
                f"the weight {self.stored!r} has {value.shape[0]} rows, not {self.end}"
            )
        if isinstance(value, QuantizedRows):
            return value.take(np.arange(self.begin, self.end)) if self.end else value
        part = value[self.begin : self.end] if self.end else value
        return part.astype(np.float32) + np.float32(self.more) if self.more else part


class Layout:
    """The layout of the files of a family.

    Parameters
    ----------
    family : Family
        The family.
    config : DecoderConfig
        The sizes.
    """

    def __init__(self, family: Family, config: DecoderConfig) -> None:
        self._family = family
        self._experts = tuple(zip(MIXTURE, family.experts, strict=True))
        wide = config.intermediate
        self._rows = {
            **dict(zip(_QKV, (config.query_width, config.kv_width, config.kv_width), strict=True)),
            **dict.fromkeys(_GATE_UP, wide),
        }

    def place(self, name: str) -> Place:
        """Return where the parameter of a name lies."""
        if f".{MIXTURE[0]}." in name:
            return Place(_renamed(name, self._experts))
        stem, _, kind = name.rpartition(".")
        stem, _, part = stem.rpartition(".")
        for fused, parts in _FUSED.items() if self._family.is_fused else ():
            if part in parts:
                before = parts[: parts.index(part)]
                begin = sum(self._rows[other] for other in before)
                return Place(f"{stem}.{fused}.{kind}", begin, begin + self._rows[part])
        is_norm = part.endswith("norm")
        return Place(name, more=float(self._family.is_gemma and is_norm))

    def names(self, stored: str) -> list[str]:
        """Return the names of the parameters that lie in a weight of the files."""
        if ".experts." in stored or stored.endswith(".gate.weight"):
            return [_renamed(stored, [(theirs, ours) for ours, theirs in self._experts])]
        stem, _, kind = stored.rpartition(".")
        stem, _, part = stem.rpartition(".")
        parts = _FUSED.get(part, ()) if self._family.is_fused else ()
        return [f"{stem}.{each}.{kind}" for each in parts] or [stored]


def _renamed(name: str, words: Iterable[tuple[str, str]]) -> str:
    """Return a name of parts between dots, some of which are replaced."""
    replaced = dict(words)
    return ".".join(replaced.get(part, part) for part in name.split("."))
