"""Imports an ONNX file whose inputs have named sizes: at several sizes, and then for all."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.errors import NotLifted, TvmSparseError, border
from tvm_sparse.frontends.imported_model import ImportedModel, tensor_spec
from tvm_sparse.frontends.lift import lift
from tvm_sparse.frontends.lifted_constants import Constants
from tvm_sparse.frontends.named_shapes import Shape
from tvm_sparse.frontends.onnx_file import read_model, tensor_array
from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.frontends.probes import FEW, MOST, RESTS, probes
from tvm_sparse.frontends.size_values import SizeValues, fallback_of
from tvm_sparse.frontends.strides import enlarges, multiples_of
from tvm_sparse.passes.canonicalize.compute_constants import ComputeConstants
from tvm_sparse.passes.canonicalize.compute_indices import ComputeIndices
from tvm_sparse.passes.canonicalize.fold_constants import FoldConstants
from tvm_sparse.passes.canonicalize.recompose_clip import RecomposeClip
from tvm_sparse.passes.canonicalize.recompose_quantized import RecomposeQuantized
from tvm_sparse.passes.canonicalize.recompose_quantized_products import RecomposeQuantizedProducts
from tvm_sparse.passes.canonicalize.view_quantized_weights import ViewQuantizedWeights


def import_named(
    path: str | os.PathLike[str], shapes: Mapping[str, Shape], no_fallback: str = ""
) -> ImportedModel:
    """Return a model whose inputs have named sizes.

    Parameters
    ----------
    path : str or PathLike
        The ONNX file.
    shapes : mapping of str to shape
        The shape of every input, from `named_shapes`.
    no_fallback : str
        Why ONNX Runtime may not compute what follows the sizes in an unknown way; empty if it may.

    Raises
    ------
    NotLifted
        If the model computes something else than sums and products of the sizes.
    """
    names = list(dict.fromkeys(s for shape in shapes.values() for s in shape if isinstance(s, str)))
    model, _ = read_model(Path(path))
    multiples = multiples_of(model, shapes)
    # A network that only makes images smaller may take any size.
    ways = [True, False] if multiples and not enlarges(model) else [False]
    imported, mod, constants = _lifted(
        [_Imports(path, shapes, names, multiples, not no_fallback, is_any) for is_any in ways]
    )
    first = imported.models[0]
    main = mod["main"]
    types = [main.ret_ty] if len(first.outputs) == 1 else main.ret_ty.fields
    outputs = map(tensor_spec, (spec.name for spec in first.outputs), types)
    inputs = (replace(spec, shape=tuple(shapes[spec.name])) for spec in first.inputs)
    bounds = {
        name: most * imported.multiples.get(name, 1) for name, most in constants.bounds.items()
    }
    fallbacks = tuple(fallback_of(part) for part in dict.fromkeys(constants.parts))
    needed = {name: multiple for name, multiple in imported.multiples.items() if multiple > 1}
    return ImportedModel(mod, tuple(inputs), tuple(outputs), fallbacks, bounds, needed)


def _lifted(ways: Sequence[_Imports]) -> tuple[_Imports, tvm.IRModule, Constants]:
    """Return the first of several ways to import a file that succeeds, and what it gives."""
    for count in (FEW, MOST):
        for imported in ways:
            try:
                return imported, *imported.lifted(count)
            except NotLifted as error:
                refusal = error
    raise refusal


class _Imports:
    """The imports of a file at several sizes, as many as are needed."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        shapes: Mapping[str, Shape],
        names: Sequence[str],
        multiples: Mapping[str, int],
        falls_back: bool,
        is_any: bool,
    ) -> None:
        self.path, self.shapes, self.names, self.steps = path, shapes, names, multiples
        self.multiples = dict.fromkeys(multiples, 1) if is_any else multiples
        self.is_any = is_any
        self.falls_back = falls_back
        self.models: list[ImportedModel] = []
        self._plain: list[tvm.IRModule] = []

    def lifted(self, count: int) -> tuple[tvm.IRModule, Constants]:
        """Return the module for all sizes, from imports at `count` sizes."""
        try:
            at = probes(self.names, count)
        except ValueError as error:
            raise NotLifted(f"{self.path}: {error}") from None
        sizes = [
            {name: size * self.steps.get(name, 1) for name, size in probe.items()} for probe in at
        ]
        if self.is_any:
            more = [{name: rest % step for name, step in self.steps.items()} for rest in RESTS]
            sizes = at = [
                {name: size + rests.get(name, 0) for name, size in probe.items()}
                for probe, rests in zip(sizes, more, strict=False)
            ]
        for probe in sizes[len(self.models) :]:
            self._add(probe)
        values = functools.cache(lambda: SizeValues(self.path, self.shapes, sizes))
        return lift(
            self._plain,
            at,
            list(self.shapes.values()),
            lambda formulas: Constants(
                formulas,
                lambda: _tables(self.path),
                lambda arrays: values().find(arrays) if self.falls_back else None,
            ),
            self.multiples,
        )

    def _add(self, sizes: Mapping[str, int]) -> None:
        found = _at(self.path, self.shapes, sizes)
        if found.fallbacks:
            raise NotLifted(
                f"{self.path}: nodes that ONNX Runtime runs need fixed sizes: "
                f"{'; '.join(map(str, found.fallbacks))}; give them (shapes=, --shape)"
            )
        anything = f"{self.path}: cannot be compiled for any {', '.join(self.names)}"
        with border(NotLifted, anything, "give fixed sizes (shapes=, --shape)"):
            self._plain.append(_plain(found.mod))
        self.models.append(found)


def _plain(mod: tvm.IRModule) -> tvm.IRModule:
    """Return an import without the functions of limits, which the importer writes out."""
    transform = relax.transform
    constants = [ComputeIndices(), ComputeConstants(), FoldConstants()]
    # Weights of integers are found before they are folded to floats.
    quantized = [RecomposeQuantizedProducts(), ViewQuantizedWeights(), RecomposeQuantized()]
    passes = [transform.CanonicalizeBindings(), *quantized, *constants, RecomposeClip()]
    return tvm.transform.Sequential(passes)(mod)


def _at(
    path: str | os.PathLike[str], shapes: Mapping[str, Shape], sizes: Mapping[str, int]
) -> ImportedModel:
    given = {
        name: [sizes[s] if isinstance(s, str) else s for s in shape]
        for name, shape in shapes.items()
    }
    try:
        return import_onnx(path, given)
    except TvmSparseError as error:
        where = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise NotLifted(
            f"{error} (with {where}; the model may need certain sizes: fix them by shapes=, "
            "--shape)"
        ) from error


def _tables(path: str | os.PathLike[str]) -> Iterator[NDArray[Any]]:
    """Yield the arrays in a file that have more than one element."""
    model, folder = read_model(Path(path))
    constants = [
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    for tensor in (*model.graph.initializer, *constants):
        if np.prod(tensor.dims) > 1 and tensor.data_type in _PLAIN:
            yield tensor_array(tensor, folder)


_PLAIN: Sequence[int] = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.INT64,
    onnx.TensorProto.INT32,
    onnx.TensorProto.BOOL,
)
