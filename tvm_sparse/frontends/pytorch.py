"""Modules of PyTorch: ``torch.export`` traces them, and TVM's importer reads the result.

The way by ONNX files would need another package, and would give the layers other names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tvm

from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.errors import InputError, ModelError, border

if TYPE_CHECKING:
    import torch


def is_module(model: object) -> bool:
    """Return whether `model` is a module of PyTorch, which is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def import_torch(module: torch.nn.Module, example_inputs: Any) -> tvm.IRModule:
    """Return a module of PyTorch in Relax, with its parameters as constants.

    Parameters
    ----------
    module : torch.nn.Module
        The module; it should be in evaluation mode.
    example_inputs : sequence of torch.Tensor, or mapping of str to torch.Tensor
        The arguments of ``forward``, by position or by name. The compiled code takes tensors of
        these shapes and dtypes.

    Raises
    ------
    InputError
        If `example_inputs` are no tensors, or the module is in training mode.
    ModelError
        If the module cannot be traced, or has an operator that TVM cannot import.
    """
    import torch

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
    return import_program(program, type(module).__name__)


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
