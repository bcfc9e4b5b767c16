"""Whether a graph adds up the results of experts by the shares of a router, found by computing it.

Tokens, the logits of the router and the results of the experts are given random numbers. What the
graph computes of them is compared with the sum by shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.frontends.canonical.expert_bodies import Expert
from tvm_sparse.frontends.canonical.expert_probe import Floats, Probe, Routed
from tvm_sparse.frontends.canonical.expert_router import Router
from tvm_sparse.frontends.canonical.graph_values import Array, GraphValues
from tvm_sparse.frontends.canonical.known_values import Shape

_TRIALS = 3


@dataclass(frozen=True)
class Sum:
    """A sum of the results of experts by shares.

    Attributes
    ----------
    shares : str
        The value with the shares.
    is_of_chosen : bool
        Whether it has shares of the chosen experts only, in their order.
    result : str
        The value of the sum.
    shape : tuple of int
        Its shape.
    rank : int
        The number of dimensions of what experts read.
    """

    shares: str
    is_of_chosen: bool
    result: str
    shape: Shape
    rank: int


def summed(
    values: GraphValues, router: Router, experts: Sequence[Expert], shape: Shape
) -> Sum | None:
    """Return the sum that a graph computes, None if it computes something else.

    Parameters
    ----------
    values : GraphValues
        The graph.
    router : Router
        The router.
    experts : sequence of Expert
        The experts by their numbers, or one with the weights of all.
    shape : tuple of int
        The shape of the tokens.
    """
    probe = Probe(values, router, experts, shape)
    left = _agreeing(probe, None) if probe.width and probe.tokens else []
    for _ in range(_TRIALS - 1):
        left = left and _agreeing(probe, left)
    return left[0] if left else None


def _agreeing(probe: Probe, left: Sequence[Sum] | None) -> list[Sum]:
    """Return the sums, among those in `left`, with which the graph agrees once more."""
    routed = probe.routed()
    if routed is None or not _is_right(probe, routed):
        return []
    given = dict(routed.given)
    results = np.zeros((probe.router.experts, probe.tokens, probe.width), np.float32)
    for number, (expert, read) in enumerate(zip(probe.experts, routed.read, strict=True)):
        drawn = given[expert.exit] = probe.drawn((*read.shape[:-1], probe.width))
        if probe.is_stacked:
            results[:] = drawn.reshape(results.shape)
        else:
            results[number, routed.sent[number]] = drawn.reshape(-1, probe.width)
    if left is None:
        joined, shares = probe.results(given)
    else:
        joined = [*dict.fromkeys(one.result for one in left)]
        shares = [*dict.fromkeys(one.shares for one in left)]
    found = probe.values.computed([*shares, *joined], given)
    # Of what stands behind the mixture, something may not be computable.
    while found is None and len(joined) > 1:
        joined = joined[:-1]
        found = probe.values.computed([*shares, *joined], given)
    if found is None:
        return []
    arrays = dict(zip([*shares, *joined], found, strict=True))
    of_chosen = results[routed.ids.T, np.arange(probe.tokens)]
    sums = []
    for name in shares:
        for is_of_chosen in (True, False):
            share = _share(probe, arrays[name], routed.ids, is_of_chosen)
            if share is None:
                continue
            total = (share.T[:, :, None] * of_chosen).sum(0)
            sums += [
                Sum(name, is_of_chosen, result, arrays[result].shape, routed.read[0].ndim)
                for result in joined
                if _are_equal(arrays[result], total)
            ]
    return [one for one in sums if left is None or one in left]


def _is_right(probe: Probe, routed: Routed) -> bool:
    """Return whether each expert reads its own tokens, or all of them."""
    every = np.arange(probe.tokens)
    if probe.is_stacked:
        return np.array_equal(routed.sent[0], np.tile(every, probe.router.experts))
    return all(np.array_equal(sent, every) for sent in routed.sent) or all(
        np.array_equal(np.sort(sent), np.flatnonzero((routed.ids == number).any(1)))
        for number, sent in enumerate(routed.sent)
    )


def _share(probe: Probe, array: Array, ids: NDArray[np.int_], is_of_chosen: bool) -> Floats | None:
    """Return the shares of the chosen experts, if an array may hold them."""
    if array.dtype != np.float32:
        return None
    floats: Floats = array.astype(np.float32, copy=False)
    if is_of_chosen:
        return floats.reshape(ids.shape) if array.size == ids.size else None
    experts = probe.router.experts
    if array.size != probe.tokens * experts or array.shape[-1:] != (experts,):
        return None
    return np.take_along_axis(floats.reshape(probe.tokens, -1), ids, 1)


def _are_equal(array: Array, total: Floats) -> bool:
    return (
        array.dtype == total.dtype
        and array.size == total.size
        and array.shape[-1:] == total.shape[-1:]
        and np.allclose(array.reshape(total.shape), total, 1e-3, 1e-4)
    )
