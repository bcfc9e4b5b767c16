"""Imports an ONNX file whose inputs have named sizes: at several sizes, and then for all."""

from __future__ import annotations

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

from tvm_sparse.errors import InputError, TvmSparseError, border
from tvm_sparse.frontends.imported_model import ImportedModel, tensor_spec
from tvm_sparse.frontends.lift import lift
from tvm_sparse.frontends.lifted_constants import Constants
from tvm_sparse.frontends.named_shapes import Shape
from tvm_sparse.frontends.onnx_file import read_model, tensor_array
from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.frontends.probes import probes
from tvm_sparse.frontends.strides import multiples_of
from tvm_sparse.passes.canonicalize.compute_constants import ComputeConstants
from tvm_sparse.passes.canonicalize.recompose_clip import RecomposeClip
from tvm_sparse.passes.canonicalize.recompose_quantized import RecomposeQuantized
from tvm_sparse.passes.canonicalize.recompose_quantized_products import RecomposeQuantizedProducts
from tvm_sparse.passes.canonicalize.view_quantized_weights import ViewQuantizedWeights


def import_named(path: str | os.PathLike[str], shapes: Mapping[str, Shape]) -> ImportedModel:
    """Return a model whose inputs have named sizes.

    Parameters
    ----------
    path : str or PathLike
        The ONNX file.
    shapes : mapping of str to shape
        The shape of every input, from `named_shapes`.

    Raises
    ------
    InputError
        If the model computes something else than sums and products of the sizes.
    """
    names = list(dict.fromkeys(s for shape in shapes.values() for s in shape if isinstance(s, str)))
    multiples = multiples_of(read_model(Path(path))[0], shapes)
    try:
        at = probes(names)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    imported = [
        _at(path, shapes, {name: size * multiples.get(name, 1) for name, size in sizes.items()})
        for sizes in at
    ]
    first = imported[0]
    if any(one.fallbacks for one in imported):
        raise InputError(
            f"{path}: nodes that ONNX Runtime runs need fixed sizes: "
            f"{'; '.join(map(str, first.fallbacks))}; give them (shapes=, --shape)"
        )
    anything = f"{path}: cannot be compiled for any {', '.join(names)}"
    with border(InputError, anything, "give fixed sizes (shapes=, --shape)"):
        plain = [_plain(one.mod) for one in imported]
    mod, constants = lift(
        plain,
        at,
        list(shapes.values()),
        lambda variables: Constants(at, variables, lambda: _tables(path)),
        multiples,
    )
    main = mod["main"]
    types = [main.ret_ty] if len(first.outputs) == 1 else main.ret_ty.fields
    outputs = map(tensor_spec, (spec.name for spec in first.outputs), types)
    inputs = (replace(spec, shape=tuple(shapes[spec.name])) for spec in first.inputs)
    bounds = {name: most * multiples.get(name, 1) for name, most in constants.bounds.items()}
    return ImportedModel(mod, tuple(inputs), tuple(outputs), bounds=bounds, multiples=multiples)


def _plain(mod: tvm.IRModule) -> tvm.IRModule:
    """Return an import without the functions of limits, which the importer writes out."""
    transform = relax.transform
    constants = [ComputeConstants(), transform.FoldConstant()]
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
        raise type(error)(
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
