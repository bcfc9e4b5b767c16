"""The numbers of experts, which may stand in any order in a graph, found by computing it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.frontends.canonical.expert_bodies import Expert
from tvm_sparse.frontends.canonical.expert_probe import Probe, Routed
from tvm_sparse.frontends.canonical.expert_router import Router
from tvm_sparse.frontends.canonical.graph_values import GraphValues
from tvm_sparse.frontends.canonical.known_values import Shape


def in_order(
    values: GraphValues, router: Router, experts: Sequence[Expert], shape: Shape
) -> list[Expert] | None:
    """Return experts in the order of their numbers, None if they have none.

    An expert has the number of which it reads the tokens, or else the number for which its result
    is part of the sum.

    Parameters
    ----------
    values : GraphValues
        The graph.
    router : Router
        The router.
    experts : sequence of Expert
        The experts.
    shape : tuple of int
        The shape of the tokens.
    """
    probe = Probe(values, router, experts, shape)
    possible = [set(range(router.experts)) for _ in experts]
    for likely in range(router.experts):
        routed = probe.routed(likely)
        tokens = None if routed is None else _tokens(probe, routed)
        if routed is None or tokens is None:
            return None
        chosen = [np.flatnonzero((routed.ids == number).any(1)) for number in range(router.experts)]
        for numbers, own in zip(possible, tokens, strict=True):
            numbers &= {n for n in numbers if np.array_equal(own, chosen[n])}
    if any(len(numbers) != 1 for numbers in possible) or len(set.union(*possible)) != len(experts):
        return None
    places = {min(numbers): place for place, numbers in enumerate(possible)}
    return [experts[places[number]] for number in range(len(experts))]


def _tokens(probe: Probe, routed: Routed) -> list[NDArray[np.int_]] | None:
    """Return the tokens that each expert has a part in."""
    every = np.arange(probe.tokens)
    if not all(np.array_equal(sent, every) for sent in routed.sent):
        return [np.sort(sent) for sent in routed.sent]
    if probe.width < len(probe.experts):
        return None
    # The result of an expert has a channel of its own.
    given = dict(routed.given)
    for place, (expert, read) in enumerate(zip(probe.experts, routed.read, strict=True)):
        result = np.zeros((*read.shape[:-1], probe.width), np.float32)
        result[..., place] = 1
        given[expert.exit] = result
    size = probe.tokens * probe.width
    for name in probe.results(given)[0]:
        found = probe.values.computed([name], given)
        if found is not None and found[0].size == size and found[0].shape[-1] == probe.width:
            total = found[0].reshape(probe.tokens, -1)
            return [np.flatnonzero(total[:, place]) for place in range(len(probe.experts))]
    return None
