"""Modules of PyTorch: ``torch.export`` traces them, and TVM's importer reads the result.

The way by ONNX files would need another package, and would give the layers other names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tvm
from tvm import relax, tirx

from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.errors import InputError, ModelError, border

if TYPE_CHECKING:
    import torch


def is_module(model: object) -> bool:
    """Return whether `model` is PyTorch's, a module or what it exported, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and (isinstance(model, torch.nn.Module) or _is_program(model))


def _is_program(model: object) -> bool:
    # Its class is imported by whoever made one.
    exported = sys.modules.get("torch.export")
    return exported is not None and isinstance(model, exported.ExportedProgram)


def import_torch(
    module: torch.nn.Module | torch.export.ExportedProgram, example_inputs: Any
) -> tuple[tvm.IRModule, dict[str, int]]:
    """Return a module of PyTorch in Relax, with its parameters as constants, and its bounds.

    Parameters
    ----------
    module : torch.nn.Module or torch.export.ExportedProgram
        The module; it should be in evaluation mode. What ``torch.export`` made of one may have
        dynamic dimensions; they are named after the first input that has them, and its axis, such
        as ``ids_1``.
    example_inputs : sequence of torch.Tensor, or mapping of str to torch.Tensor
        The arguments of ``forward``, by position or by name. The compiled code takes tensors of
        these shapes and dtypes. An exported program needs none.

    Returns
    -------
    tuple of IRModule and dict of str to int
        The module, and the largest sizes of its dynamic dimensions by name.

    Raises
    ------
    InputError
        If `example_inputs` are no tensors, or the module is in training mode.
    ModelError
        If the module cannot be traced, or has an operator that TVM cannot import.
    """
    import torch

    if _is_program(module):
        if example_inputs:
            raise InputError("an exported program has its shapes: give no example inputs beside it")
        return _named(import_program(module, "the exported program"))
    names: Mapping[str, Any] = example_inputs if isinstance(example_inputs, Mapping) else {}
    args: Sequence[Any] = () if names else example_inputs
    if isinstance(args, torch.Tensor):
        args = (args,)
    found = [*(args or ()), *names.values()]
    if not found or not all(isinstance(value, torch.Tensor) for value in found):
        raise InputError(
            "a module of PyTorch is compiled for example inputs: give a tuple or a dict of tensors "
            "as the second argument"
        )
    if module.training:
        raise InputError("the module is in training mode: call its .eval() first")
    with border(ModelError, f"{type(module).__name__} cannot be exported"), torch.no_grad():
        program = torch.export.export(module, tuple(args), dict(names))
    return import_program(program, type(module).__name__), {}


def _named(mod: tvm.IRModule) -> tuple[tvm.IRModule, dict[str, int]]:
    """Return a module whose variables have names that say where they are, and their bounds."""
    main = mod["main"]
    renamed: dict[tirx.Var, str] = {}
    for param in main.params:
        for axis, size in enumerate(param.ty.shape.values):
            if isinstance(size, tirx.Var):
                renamed.setdefault(size, f"{param.name}_{axis}")
    limits = main.attrs.get(_BOUNDS, {})
    bounds = {name: int(limits[v.name]) for v, name in renamed.items() if v.name in limits}
    given = {var.name: tirx.Var(name, "int64") for var, name in renamed.items()}
    main = relax.utils.copy_with_new_vars(main).bind_symbolic_vars(given)
    for attribute in (_BOUNDS, "tir_var_lower_bound"):
        main = main.without_attr(attribute)
    mod.update_func(mod.get_global_var("main"), main)
    return mod, bounds


_BOUNDS = "tir_var_upper_bound"
"""The attribute of a function with the largest sizes of its variables by name."""


@one_at_a_time
def import_program(program: Any, name: str) -> tvm.IRModule:
    """Return what ``torch.export`` traced in Relax, with its parameters as constants.

    Raises
    ------
    ModelError
        If it has an operator that TVM cannot import.
    """
    # It takes seconds, and needs PyTorch.
    from tvm.relax.frontend.torch import from_exported_program

    with border(ModelError, f"{name} cannot be imported"):
        return from_exported_program(
            program, keep_params_as_input=False, unwrap_unit_return_tuple=False
        )
