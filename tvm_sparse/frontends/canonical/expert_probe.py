"""A graph around experts, computed with random tokens and random logits of the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.frontends.canonical.expert_bodies import Expert, is_product
from tvm_sparse.frontends.canonical.expert_router import Router
from tvm_sparse.frontends.canonical.graph_values import Array, GraphValues
from tvm_sparse.frontends.canonical.known_values import Shape

_NEXT = 8
"""Values behind the last expert that may be the result of the mixture."""
_MOST_ELEMENTS = 1 << 27
"""Elements of random results of experts above which nothing is tried."""
_HEAVY = {"Attention", "CachedAttention", "Conv", "Gemm", "GroupQueryAttention", "MatMul",
          "MatMulNBits"}  # fmt: skip
"""What other layers consist of; the sum of a mixture needs none of them."""
_LIKELY = 100.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Routed:
    """What a graph does with random tokens.

    Attributes
    ----------
    given : mapping of str to array
        The tokens and the logits.
    ids : array of int
        The chosen experts ``(tokens, chosen)``.
    read : list of array
        What each network of experts reads.
    sent : list of array of int
        The number of the token in each of these rows, -1 for a row that is no token.
    """

    given: Mapping[str, Array]
    ids: NDArray[np.int_]
    read: list[Array]
    sent: list[NDArray[np.int_]]


class Probe:
    """Computes what a graph does around experts.

    Parameters
    ----------
    values : GraphValues
        The graph.
    router : Router
        The router.
    experts : sequence of Expert
        The experts, or one with the weights of all.
    shape : tuple of int
        The shape of the tokens.

    Attributes
    ----------
    tokens : int
        How many there are.
    width : int
        The channels of the result of an expert; 0 if it is not known, or too much to try.
    is_stacked : bool
        Whether one network has the weights of all experts.
    """

    def __init__(
        self, values: GraphValues, router: Router, experts: Sequence[Expert], shape: Shape
    ) -> None:
        self.values, self.router, self.experts = values, router, experts
        self.tokens = int(np.prod(shape[:-1]))
        self.is_stacked = len(experts) == 1
        widths = {_width(values, expert, self.is_stacked) for expert in experts}
        size = router.experts * self.tokens * max(widths)
        self.width = max(widths) if len(widths) == 1 and size <= _MOST_ELEMENTS else 0
        self._shape = shape
        self._random = np.random.default_rng(0)

    def drawn(self, shape: Sequence[int]) -> Floats:
        """Return random numbers."""
        return self._random.standard_normal(shape).astype(np.float32)

    def routed(self, likely: int | None = None) -> Routed | None:
        """Return what the graph does with new tokens, None if it cannot be computed.

        Parameters
        ----------
        likely : int, optional
            An expert that is chosen for all tokens.
        """
        rows = self.drawn(self._shape)
        given: dict[str, Array] = {self.router.rows: rows}
        product = self.values.makers[self.router.logits]
        found = self.values.computed([product.input[0]], given)
        if found is None:
            return None
        logits = self.drawn((*found[0].shape[:-1], self.router.experts))
        if likely is not None:
            logits[..., likely] += _LIKELY
        given[self.router.logits] = logits
        entries = [expert.entry for expert in self.experts]
        found = self.values.computed([self.router.ids, *entries], given)
        if found is None or found[0].size != self.tokens * self.router.chosen:
            return None
        ids, read = found[0].reshape(self.tokens, -1).astype(int), found[1:]
        places = {row.tobytes(): place for place, row in enumerate(rows.reshape(self.tokens, -1))}
        sent = []
        for array in read:
            flat = np.ascontiguousarray(array.reshape(-1, array.shape[-1]))
            sent.append(np.array([places.get(row.tobytes(), -1) for row in flat], int))
        return Routed(given, ids, read, sent)

    def results(self, given: Mapping[str, Array]) -> tuple[list[str], list[str]]:
        """Return values that may be the sum of all experts, and values that may be shares."""
        values = self.values
        exits = [expert.exit for expert in self.experts]
        behind = [values.dependent([name]) - {name} for name in exits]
        joined = sorted(set.intersection(*behind), key=lambda name: values.places[name])[:_NEXT]
        results, nodes = [], []
        for name in joined:
            more = values.needed([name], given)
            if any(node.op_type in _HEAVY for node in more):
                break
            results.append(name)
            nodes = more
        routed = values.dependent([self.router.logits]) - set.union(set(exits), *behind)
        return results, [name for node in nodes for name in node.output if name in routed]


def _width(values: GraphValues, expert: Expert, is_stacked: bool) -> int:
    """Return the channels of the result of an expert, 0 if its last product does not say."""
    node = next(n for n in reversed(expert.nodes) if is_product(values, n))
    weight = values.constant(node.input[1])
    if weight is None or weight.ndim != 2 + is_stacked:
        return 0
    is_turned = any(a.name == "transB" and a.i for a in node.attribute)
    return int(weight.shape[-2 if is_turned else -1])
