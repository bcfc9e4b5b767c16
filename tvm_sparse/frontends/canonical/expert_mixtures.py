"""Mixtures of experts in the forms that exporters write => products with chosen weights.

A mixture sends each token to its `k` likeliest experts, and adds their results up by shares. Three
forms compute more than that, or in another order than kernels of experts need::

    for expert: tokens = NonZero(chosen == expert); y[tokens] += shares[tokens] * f(x[tokens])
    for expert: y += shares[expert] * f(x)                      # shares that are mostly 0
    y = ReduceSum(shares * f(x)), where the weights of all experts are stacked

They become::

    y = ReduceSum(shares * f(x, weights[chosen]))

The experts are found by their form, and the sum by what it computes, whatever computes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from tvm_sparse.frontends.canonical.expert_bodies import (
    Different,
    Expert,
    common_experts,
    sent_experts,
)
from tvm_sparse.frontends.canonical.expert_hits import unroll_hits
from tvm_sparse.frontends.canonical.expert_order import in_order
from tvm_sparse.frontends.canonical.expert_proof import Sum, summed
from tvm_sparse.frontends.canonical.expert_router import Router, router_of
from tvm_sparse.frontends.canonical.expert_weights import ChosenWeights
from tvm_sparse.frontends.canonical.graph_values import GraphValues
from tvm_sparse.frontends.canonical.replaced_nodes import replace_all, replace_node


def gather_experts(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Rewrite the mixtures of experts of a model, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, whose inputs have static shapes.
    folder : Path
        The folder that the locations of external weights are relative to.
    """
    choices = [node for node in model.graph.node if node.op_type == "TopK"]
    for number, choice in enumerate(choices):
        values = GraphValues(model, folder)
        router = router_of(values, choice)
        if router is None:
            continue
        nodes, tensors = list(model.graph.node), list(model.graph.initializer)
        is_unrolled = unroll_hits(values, router, f"tvm_sparse_loop{number}_")
        if is_unrolled:
            values = GraphValues(model, folder)
        for experts, shape in itertools.product(
            _possible_experts(values, router), router.possible_shapes(values)
        ):
            ordered = in_order(values, router, experts, shape) if len(experts) > 1 else experts
            total = ordered and summed(values, router, ordered, shape)
            prefix = f"tvm_sparse_experts{number}_"
            if ordered and total and _replace(values, router, ordered, total, prefix):
                break
        else:
            # Only in a mixture do experts without tokens add nothing.
            if is_unrolled:
                replace_all(model, nodes, tensors)
    return model


def _possible_experts(values: GraphValues, router: Router) -> Iterator[list[Expert]]:
    dependent = router.dependent(values)
    sent = sent_experts(values, dependent)
    if len(sent) == router.experts:
        yield sent
    yield from common_experts(values, router.near(values) - dependent, router.experts)


def _replace(
    values: GraphValues, router: Router, experts: list[Expert], total: Sum, prefix: str
) -> bool:
    """Let products with chosen weights compute a sum; return whether it could be done."""
    numbers = f"{prefix}numbers"
    writer = ChosenWeights(values, experts, router.experts, total.rank, prefix, numbers)

    def reshaped(name: str, *shape: int) -> str:
        return writer.op("Reshape", [name, writer.tensor(np.array(shape))])

    ids = reshaped(router.ids, -1, router.chosen)
    writer.nodes.append(helper.make_node("Identity", [ids], [numbers], numbers))
    try:
        result = writer.write(reshaped(router.rows, -1, 1, 1, router.channels))
    except Different:
        return False
    share = total.shares
    if not total.is_of_chosen:
        every = reshaped(share, -1, router.experts)
        share = writer.op("GatherElements", [every, numbers], axis=1)
    weighted = writer.op("Mul", [result, reshaped(share, -1, router.chosen, 1, 1)])
    flat = writer.op("ReduceSum", [weighted, writer.tensor(np.array([1]))], keepdims=0)
    shape = writer.tensor(np.array(total.shape))
    last = helper.make_node("Reshape", [flat, shape], [total.result], f"{prefix}result")
    place = values.places[total.result]
    if len(values.nodes[place].output) > 1:
        return False
    replace_node(values.model, place, [*writer.nodes, last], writer.tensors)
    return True
