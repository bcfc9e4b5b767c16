"""A graph of ``torch.compile`` with its parameters inside, as ``torch.export`` traces it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm_sparse.errors import ModelError, border

if TYPE_CHECKING:
    import torch


def freeze(graph: torch.nn.Module, args: Sequence[Any], variables: Sequence[int]) -> Any:
    """Return an exported program of a graph, for tensors of the shapes of `args`.

    Parameters
    ----------
    graph : torch.nn.Module
        The graph.
    args : sequence
        All its inputs.
    variables : sequence of int
        The positions of those that are inputs of the program.

    Raises
    ------
    ModelError
        If the graph cannot be traced, or has a result that is no tensor.
    """
    import torch

    with border(ModelError, "it cannot be exported"), torch.no_grad():
        tensors = tuple(args[number].detach() for number in variables)
        program = torch.export.export(_frozen(graph, args, variables), tensors)
    outputs = program.graph_signature.output_specs
    if any(type(spec.arg).__name__ != "TensorArgument" for spec in outputs):
        raise ModelError("it returns values that are no tensors")
    if any(spec.kind.name != "USER_OUTPUT" for spec in outputs):
        raise ModelError("it writes into tensors that it is given")
    return program


def _frozen(
    graph: torch.nn.Module, args: Sequence[Any], variables: Sequence[int]
) -> torch.nn.Module:
    """Return a graph as a function of some of its inputs; all others are constants."""
    import torch

    class Frozen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph = graph
            self.values: list[Any] = []
            for number, value in enumerate(args):
                is_constant = isinstance(value, torch.Tensor) and number not in variables
                if is_constant:
                    self.register_buffer(f"constant_{number}", value.detach())
                self.values.append(None if is_constant else value)

        def forward(self, *tensors: torch.Tensor) -> Any:
            given = dict(zip(variables, tensors, strict=True))
            return self.graph(
                *(
                    given[number] if number in given else getattr(self, f"constant_{number}", value)
                    for number, value in enumerate(self.values)
                )
            )

    return Frozen().eval()
