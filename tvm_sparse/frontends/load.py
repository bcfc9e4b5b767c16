"""The entry to all frontends: an ONNX file or a Relax module becomes an `ImportedModel`."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import tvm
from tvm import relax

from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.errors import InputError, ModelError
from tvm_sparse.frontends.imported_model import ImportedModel, tensor_spec
from tvm_sparse.specs import FallbackOption


@one_at_a_time
def import_module(
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Mapping[str, Sequence[Any]] | None = None,
    no_fallback: str = "",
    distrusted: Mapping[str, str] | None = None,
    named: Mapping[str, Sequence[int | str]] | None = None,
    not_compiled: str = "",
) -> ImportedModel:
    """Return `model`, an ONNX file or a Relax module, with its inputs and outputs.

    Parameters
    ----------
    model, shapes
        As `tvm_sparse.compile` takes them.
    no_fallback : str
        Why ONNX Runtime may not run nodes that cannot be compiled; empty if it may.
    distrusted : mapping of str to str, optional
        Names of nodes that ONNX Runtime shall run though they can be compiled, and why.
    named : mapping of str to shape, optional
        The shapes of the inputs of an ONNX file if dimensions stay open, from `names_in`.
    not_compiled : str
        Why ONNX Runtime shall run all of a model whose dimensions stay open; empty if it shall not.

    Raises
    ------
    ModelError
        If the model cannot be read or imported.
    NotLifted
        If the model cannot be imported for all sizes.
    InputError
        If `shapes` does not fit the model, or is given for a Relax module.
    """
    if not isinstance(model, tvm.IRModule):
        # Late, because a machine that only loads libraries needs neither onnx nor ONNX Runtime.
        from tvm_sparse.frontends.onnx_importer import import_onnx

        if named and not_compiled:
            from tvm_sparse.frontends.whole_model import import_whole

            return import_whole(model, named, not_compiled)
        if named:
            from tvm_sparse.frontends.named_import import import_named

            return import_named(model, {n: tuple(shape) for n, shape in named.items()}, no_fallback)
        return import_onnx(model, shapes, no_fallback, distrusted)
    if shapes:
        raise InputError("shapes= is for ONNX files; bind a Relax module's with BindSymbolicVars")
    main = _main(model)
    inputs = tuple(tensor_spec(param.name, param.ty) for param in main.params)
    types = main.ret_ty.fields if isinstance(main.ret_ty, relax.TupleType) else [main.ret_ty]
    outputs = tuple(tensor_spec(f"output_{i}", ty) for i, ty in enumerate(types))
    return ImportedModel(model, inputs, outputs)


def import_step(
    model: str | os.PathLike[str] | tvm.IRModule, shapes: Mapping[str, Sequence[Any]] | None
) -> ImportedModel | None:
    """Return the function of a decoder that computes one token; None if `model` is no decoder.

    A decoder with `shapes` is imported like any other model.

    Raises
    ------
    ModelError
        If the model cannot be read or imported.
    """
    if shapes or isinstance(model, tvm.IRModule):
        return None
    from tvm_sparse.frontends.decoders.decoder import DecoderFile, is_decoder

    if not is_decoder(model):
        return None
    file = DecoderFile.read(model)
    _, mod = next(file.modules())
    return ImportedModel(mod, file.inputs, file.outputs)


def names_in(
    model: str | os.PathLike[str] | tvm.IRModule, shapes: Mapping[str, Sequence[int | str]] | None
) -> dict[str, tuple[int | str, ...]] | None:
    """Return the shapes of the inputs of an ONNX file if dimensions stay open, else None.

    A Relax module has its own variables, so that the result is None.

    Raises
    ------
    ModelError
        If the model cannot be read.
    InputError
        If `shapes` does not fit the model.
    """
    if isinstance(model, tvm.IRModule):
        return None
    from tvm_sparse.frontends.named_shapes import named_shapes
    from tvm_sparse.frontends.onnx_file import read_model

    return named_shapes(read_model(model)[0], shapes)


def has_sizes(module: object) -> bool:
    """Return whether it is a Relax module with inputs whose sizes are known at run time only."""
    if not isinstance(module, tvm.IRModule):
        return False
    params = _main(module).params
    return not all(tensor_spec(param.name, param.ty).is_static for param in params)


def _main(module: tvm.IRModule) -> relax.Function:
    """Return the function ``main`` of a Relax module.

    Raises
    ------
    ModelError
        If there is none; the message says which functions there are.
    """
    functions = {
        variable.name_hint: function
        for variable, function in module.functions_items()
        if isinstance(function, relax.Function)
    }
    if "main" not in functions:
        found = ", ".join(sorted(functions)) or "none at all"
        raise ModelError(
            f"the module has no Relax function 'main' (it has {found}): name the function that is "
            "to be compiled 'main'"
        )
    return functions["main"]


def no_fallback(where: str, fallback: FallbackOption = "onnxruntime") -> str:
    """Return why ONNX Runtime may not run nodes that cannot be compiled, empty if it may.

    Parameters
    ----------
    where : str
        Where the model shall run: the name of an architecture on Linux, or another place.
    fallback : str
        What the user wants.

    Raises
    ------
    InputError
        If `fallback` has another value.
    """
    if fallback not in get_args(FallbackOption):
        options = ", ".join(get_args(FallbackOption))
        raise InputError(f"unknown fallback {fallback!r}: it is one of {options}")
    if where != platform.machine():
        return f"ONNX Runtime runs such nodes only on this machine, not on {where}"
    if fallback == "off":
        return "with fallback 'onnxruntime', ONNX Runtime would run them"
    return ""
