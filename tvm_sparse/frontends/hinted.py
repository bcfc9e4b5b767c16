"""Models whose open dimensions have the sizes that are planned for: what reports and tunings take.

A kernel is measured at one size. So a model with open dimensions is analyzed and tuned as its
hints say; a library for any sizes then finds the records, because its plans are those of its hints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.frontends.load import has_sizes, import_module, names_in
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.frontends.strides import multiples_of
from tvm_sparse.passes.ir.shapes import BATCH_HINT, DEFAULT_HINT, sizes_of
from tvm_sparse.passes.lower.count_multiples import counted, default_counts
from tvm_sparse.passes.sparsify.token_lanes import open_lanes
from tvm_sparse.specs import Hints, TensorSpec, check_sizes, each_hint


@dataclass(frozen=True)
class Hinted:
    """A model at the sizes that are planned for.

    Attributes
    ----------
    model : str, PathLike or IRModule
        The file, or the module with numbers in place of its variables.
    shapes : mapping of str to sequence of int, optional
        The shapes of the inputs of a file.
    sizes : mapping of str to int
        The sizes of its open dimensions by name; empty if none is open.
    has_open_tokens : bool
        Whether an axis of an input behind the batch is open that may count tokens.
    """

    model: str | os.PathLike[str] | tvm.IRModule
    shapes: Mapping[str, Sequence[int]] | None
    sizes: Mapping[str, int]
    has_open_tokens: bool = False

    def on(self, cpu: CpuProfile) -> CpuProfile:
        """Return a processor with the lanes of panels that a library for any sizes has there."""
        lanes = open_lanes(cpu, cpu.activations)
        fewer = lanes < 2 * cpu.vector_lanes(cpu.activations)
        return replace(cpu, token_lanes=lanes) if self.has_open_tokens and fewer else cpu

    def __str__(self) -> str:
        """Return the sizes as one sentence; empty if none is open."""
        if not self.sizes:
            return ""
        sizes = ", ".join(f"{name} = {size}" for name, size in self.sizes.items())
        return f"its open dimensions have the sizes that are planned for: {sizes} (hints=, --hint)"


def at_hints(
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Any | None,
    hints: Hints | None,
) -> Hinted:
    """Return a model whose open dimensions have the first sizes of `hints`, or the default ones.

    Parameters
    ----------
    model, shapes, hints
        As `tvm_sparse.compile` takes them.

    Raises
    ------
    ModelError
        If the model cannot be read.
    InputError
        If `shapes` or `hints` do not fit the model.
    """
    given = each_hint(hints or {})[0]
    if isinstance(model, tvm.IRModule):
        return _module_at(model, shapes, given)
    named = names_in(model, shapes)
    if named is None:
        check_sizes("hints=", given, ())
        return Hinted(model, shapes, {})
    check_sizes("hints=", given, (TensorSpec(name, shape, "") for name, shape in named.items()))
    multiples = multiples_of(read_model(Path(model))[0], named)
    sizes: dict[str, int] = {}
    for shape in named.values():
        for axis, size in enumerate(shape):
            if isinstance(size, str):
                sizes.setdefault(size, given.get(size, DEFAULT_HINT if axis else BATCH_HINT))
    counts = default_counts(multiples) | counted(
        {name: size for name, size in given.items() if name in multiples}, multiples
    )
    sizes |= {name: count * multiples[name] for name, count in counts.items()}
    fixed = {
        name: tuple(sizes[s] if isinstance(s, str) else s for s in shape)
        for name, shape in named.items()
    }
    return Hinted(model, fixed, sizes, any(map(_has_open_tokens, named.values())))


def _has_open_tokens(shape: Sequence[int | str]) -> bool:
    """Whether a shape is that of sequences of any number of tokens."""
    return len(shape) in (2, 3) and any(isinstance(size, str) for size in shape[1:])


def _module_at(model: tvm.IRModule, shapes: Any | None, given: Mapping[str, int]) -> Hinted:
    if not has_sizes(model):
        check_sizes("hints=", given, ())
        return Hinted(model, shapes, {})
    inputs = import_module(model).inputs
    check_sizes("hints=", given, inputs)
    sizes, is_open = sizes_of(model) | dict(given), any(_has_open_tokens(i.shape) for i in inputs)
    return Hinted(relax.transform.BindSymbolicVars(sizes)(model), shapes, sizes, is_open)
