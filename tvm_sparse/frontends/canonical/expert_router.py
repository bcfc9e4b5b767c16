"""What chooses the experts of each token: a TopK behind a product with the tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from tvm_sparse.frontends.canonical.expert_bodies import is_product
from tvm_sparse.frontends.canonical.graph_values import GraphValues
from tvm_sparse.frontends.canonical.known_values import Shape
from tvm_sparse.frontends.canonical.static_types import static_types
from tvm_sparse.frontends.nodes import reads

_VIEWS = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True)
class Router:
    """What chooses experts.

    Attributes
    ----------
    ids : str
        The numbers of the chosen experts.
    logits : str
        The product that the choice comes from.
    rows : str
        What the product multiplies, the tokens.
    channels, experts, chosen : int
        The channels of a token, how many experts there are, and how many a token is sent to.
    """

    ids: str
    logits: str
    rows: str
    channels: int
    experts: int
    chosen: int

    def dependent(self, values: GraphValues) -> set[str]:
        """Return all that depends on the choice."""
        return values.dependent(values.makers[self.ids].output)

    def near(self, values: GraphValues) -> set[str]:
        """Return what is computed of the tokens without a product."""
        found = {self.rows}
        for node in values.nodes:
            if not found.isdisjoint(reads(node)) and not is_product(values, node):
                found.update(node.output)
        return found

    def possible_shapes(self, values: GraphValues) -> Iterator[Shape]:
        """Yield shapes that the tokens may have; none if they are not float32."""
        kind, shape = static_types(values.model).get(self.rows, (TensorProto.FLOAT, None))
        if kind not in (TensorProto.FLOAT, TensorProto.UNDEFINED):
            return
        if shape is not None:
            yield shape
            return
        # Behind operators that shape inference does not know, there are as many tokens as before.
        for value in values.model.graph.input:
            dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if len(dims) == 2 and value.type.tensor_type.elem_type == TensorProto.INT64:
                yield (*dims, self.channels)
                yield (int(np.prod(dims)), self.channels)
                return


def router_of(values: GraphValues, choice: onnx.NodeProto) -> Router | None:
    """Return the router that a TopK belongs to, None if it chooses something else."""
    count = values.constant(choice.input[1]) if values.is_constant(choice.input[1]) else None
    if count is None or count.size != 1 or len(choice.output) < 2 or not choice.output[1]:
        return None
    product = _only_product(values, choice.input[0])
    weight = None if product is None else values.constant(product.input[1])
    if product is None or weight is None or weight.ndim != 2:
        return None
    is_turned = any(a.name == "transB" and a.i for a in product.attribute)
    channels, experts = weight.shape[::-1] if is_turned else weight.shape
    rows = product.input[0]
    while (maker := values.makers.get(rows)) is not None and maker.op_type in _VIEWS:
        rows = maker.input[0]
    chosen = int(count.reshape(()))
    if not 0 < chosen <= experts:
        return None
    return Router(choice.output[1], product.output[0], rows, channels, experts, chosen)


def _only_product(values: GraphValues, name: str) -> onnx.NodeProto | None:
    """Return the product that a value depends on, None if there are others or inputs."""
    found: dict[str, onnx.NodeProto] = {}
    waiting, seen = [name], {name}
    while waiting:
        maker = values.makers.get(waiting.pop())
        if maker is None:
            return None
        if is_product(values, maker):
            found[maker.output[0]] = maker
            continue
        more = {read for read in reads(maker) if not values.is_constant(read)} - seen
        seen |= more
        waiting.extend(more)
    return next(iter(found.values())) if len(found) == 1 else None
