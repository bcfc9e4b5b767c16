"""A graph of ``torch.compile`` with its parameters inside, as ``torch.export`` traces it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tvm_sparse.errors import ModelError, border

if TYPE_CHECKING:
    import torch


Sizes = Mapping[int, Mapping[int, str]]
"""Names of the dynamic dimensions of inputs: by the position of the input, then by axis."""


def numbers_of(graph: torch.fx.GraphModule) -> frozenset[int]:
    """Return the positions of the inputs that are numbers of Python, in tensors without axes.

    PyTorch gives the fractions of a module as such, for example the epsilon of a normalization.
    """
    return frozenset(
        number
        for number, node in enumerate(_inputs(graph))
        if node.users and all(user.target == "item" for user in node.users)
    )


def dynamic_sizes(graph: torch.fx.GraphModule) -> Sizes:
    """Return the names of the sizes that PyTorch calls dynamic; none if one is an expression."""
    import torch

    sizes: dict[int, dict[int, str]] = {}
    for number, node in enumerate(_inputs(graph)):
        value = node.meta.get("example_value")
        shape = {-1: value} if not isinstance(value, torch.Tensor) else dict(enumerate(value.shape))
        named = {axis: str(n) for axis, n in shape.items() if isinstance(n, torch.SymInt)}
        own = {axis: name for axis, name in named.items() if not name.isdigit()}
        sizes |= {number: own} if own else {}
    known = {name for own in sizes.values() for axis, name in own.items() if axis >= 0}
    names = {name for own in sizes.values() for name in own.values()}
    return sizes if names <= known and all(map(str.isidentifier, names)) else {}


def _inputs(graph: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [node for node in graph.graph.nodes if node.op == "placeholder"]


def _with_numbers(graph: torch.fx.GraphModule, args: Sequence[Any]) -> torch.fx.GraphModule:
    """Return a graph in which the numbers among its inputs are constants."""
    import torch

    numbers = numbers_of(graph)
    if not numbers:
        return graph
    graph = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))
    for number, node in enumerate(_inputs(graph)):
        for user in list(node.users) if number in numbers else ():
            for reader in list(user.users):
                reader.args = torch.fx.map_arg(
                    reader.args, lambda a, u=user, n=number: args[n].item() if a is u else a
                )
            graph.graph.erase_node(user)
    graph.recompile()
    return graph


def freeze(
    graph: torch.fx.GraphModule, args: Sequence[Any], variables: Sequence[int], sizes: Sizes
) -> Any:
    """Return an exported program of a graph, for tensors of the shapes of `args`.

    Parameters
    ----------
    graph : torch.fx.GraphModule
        The graph.
    args : sequence
        All its inputs.
    variables : sequence of int
        The positions of those that are inputs of the program.
    sizes : Sizes
        The dimensions that stay dynamic. An input that is no tensor may be a size, at axis -1.

    Raises
    ------
    ModelError
        If the graph cannot be traced, or has a result that is no tensor.
    """
    import torch

    with border(ModelError, "it cannot be exported"), torch.no_grad():
        tensors = tuple(args[number].detach() for number in variables)
        names = {name for own in sizes.values() for name in own.values()}
        dims = {name: torch.export.Dim(name) for name in names}
        dynamic = [
            {axis: dims[name] for axis, name in sizes.get(number, {}).items()}
            for number in variables
        ]
        program = torch.export.export(
            _frozen(_with_numbers(graph, args), args, variables, sizes),
            tensors,
            dynamic_shapes=(tuple(dynamic),),
        )
    outputs = program.graph_signature.output_specs
    if any(type(spec.arg).__name__ != "TensorArgument" for spec in outputs):
        raise ModelError("it returns values that are no tensors")
    if any(spec.kind.name != "USER_OUTPUT" for spec in outputs):
        raise ModelError("it writes into tensors that it is given")
    return program


def _frozen(
    graph: torch.nn.Module, args: Sequence[Any], variables: Sequence[int], sizes: Sizes
) -> torch.nn.Module:
    """Return a graph as a function of some of its inputs; all others are constants."""
    import torch

    places = {
        name: (number, axis) for number in variables for axis, name in sizes.get(number, {}).items()
    }

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
            given: dict[int, Any] = dict(zip(variables, tensors, strict=True))
            for number in sizes.keys() - given.keys():
                tensor, axis = places[sizes[number][-1]]
                given[number] = given[tensor].shape[axis]
            return self.graph(
                *(
                    given[number] if number in given else getattr(self, f"constant_{number}", value)
                    for number, value in enumerate(self.values)
                )
            )

    return Frozen().eval()
