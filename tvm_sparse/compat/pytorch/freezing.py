"""A graph of ``torch.compile`` with its parameters inside, as ``torch.export`` traces it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tvm_sparse.errors import ModelError, border


class Frozen(torch.nn.Module):
    """A graph as a function of some of its inputs; all others are constants."""

    def __init__(
        self, graph: torch.nn.Module, args: Sequence[Any], variables: Sequence[int]
    ) -> None:
        super().__init__()
        self.graph = graph
        self.variables = list(variables)
        self.values: list[Any] = []
        for number, value in enumerate(args):
            if isinstance(value, torch.Tensor) and number not in variables:
                self.register_buffer(f"constant_{number}", value.detach())
                self.values.append(None)
            else:
                self.values.append(value)

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Compute the graph."""
        given = dict(zip(self.variables, tensors, strict=True))
        args = [
            given[number] if number in given else getattr(self, f"constant_{number}", value)
            for number, value in enumerate(self.values)
        ]
        return self.graph(*args)


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
    with border(ModelError, "it cannot be exported"), torch.no_grad():
        frozen = Frozen(graph, args, variables).eval()
        tensors = tuple(args[number].detach() for number in variables)
        program = torch.export.export(frozen, tensors)
    outputs = program.graph_signature.output_specs
    if any(type(spec.arg).__name__ != "TensorArgument" for spec in outputs):
        raise ModelError("it returns values that are no tensors")
    if any(spec.kind.name != "USER_OUTPUT" for spec in outputs):
        raise ModelError("it writes into tensors that it is given")
    return program
