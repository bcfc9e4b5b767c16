"""Networks of experts, of equal form and with weights of their own, in a graph.

The nodes of an expert are products with constants, and functions that treat every row by itself::

    rows -> MatMul, Gemm -> Add, Mul, Sigmoid, Split, ... -> MatMul, Gemm -> Add -> result

All experts may be one such network, whose constants have an axis of experts in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import helper

from tvm_sparse.frontends.canonical.graph_values import GraphValues
from tvm_sparse.frontends.nodes import qualified

PRODUCTS = {"Gemm", "MatMul"}
ELEMENTWISE = {
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Relu", "Sigmoid",
    "Softplus", "Sqrt", "Sub", "Swish", "Tanh", "com.microsoft.Gelu", "com.microsoft.QuickGelu",
}  # fmt: skip
CUTTING = {"Slice", "Split"}
"""Operators that cut rows, whose other operands are numbers."""


@dataclass
class Expert:
    """The network of an expert, or of all of them if their weights are stacked.

    Attributes
    ----------
    entry, exit : str
        What it reads, and its result.
    nodes : list of onnx.NodeProto
        Its nodes in order.
    """

    entry: str
    exit: str
    nodes: list[onnx.NodeProto]


def is_product(values: GraphValues, node: onnx.NodeProto) -> bool:
    """Return whether a node multiplies rows by a constant."""
    return (
        qualified(node) in PRODUCTS
        and not values.is_constant(node.input[0])
        and all(values.is_constant(name) for name in node.input[1:])
    )


def sent_experts(values: GraphValues, dependent: set[str]) -> list[Expert]:
    """Return networks that read rows which were chosen by a router.

    Parameters
    ----------
    values : GraphValues
        The graph.
    dependent : set of str
        The values that depend on the choice.
    """
    behind: set[str] = set()  # values that depend on such a product
    first: list[onnx.NodeProto] = []
    for node in values.nodes:
        if dependent.isdisjoint(node.output):
            continue
        if not behind.isdisjoint(node.input):
            behind.update(node.output)
        elif is_product(values, node) and node.input[0] in dependent:
            first.append(node)
            behind.update(node.output)
    return list(_networks(values, first))


def common_experts(values: GraphValues, rows: set[str], count: int) -> list[list[Expert]]:
    """Return lists of equal networks, as many as there are experts, which read the same rows.

    A network of stacked weights is a list of its own.

    Parameters
    ----------
    values : GraphValues
        The graph.
    rows : set of str
        The values that they may read.
    count : int
        The experts.
    """
    by_entry: dict[str, list[onnx.NodeProto]] = {}
    for node in values.nodes:
        if is_product(values, node) and node.input[0] in rows:
            by_entry.setdefault(node.input[0], []).append(node)
    found = []
    for first in by_entry.values():
        by_form: dict[str, list[Expert]] = {}
        for expert in _networks(values, first):
            by_form.setdefault(_form(expert), []).append(expert)
        found += [experts for experts in by_form.values() if len(experts) in (1, count)]
    return found


def _networks(values: GraphValues, first: Iterable[onnx.NodeProto]) -> Iterator[Expert]:
    """Yield the networks that begin with some products."""
    begins = {id(node) for node in first}
    network: dict[str, str] = {}  # the network of a value, by its first value
    entries: dict[str, set[str]] = {}

    def root(name: str) -> str:
        while network[name] != name:
            name = network[name]
        return name

    nodes: list[onnx.NodeProto] = []
    for node in values.nodes:
        changing = [n for n in node.input if n and not values.is_constant(n)]
        if id(node) in begins:
            roots = [node.output[0]]
            entries[node.output[0]] = {node.input[0]}
        elif _is_part(values, node) and changing and all(name in network for name in changing):
            roots = [root(name) for name in changing]
        else:
            continue
        nodes.append(node)
        for other in roots[1:]:
            if other != roots[0]:
                network[other] = roots[0]
                entries[roots[0]] |= entries.pop(other, set())
                roots = [roots[0], *(roots[0] if r == other else r for r in roots[1:])]
        for name in filter(None, node.output):
            network[name] = roots[0]
    outputs = {value.name for value in values.model.graph.output}
    for name, read in entries.items():
        own = [node for node in nodes if root(node.output[0]) == name]
        inside = {id(node) for node in own}
        results = [
            out
            for node in own
            for out in node.output
            if out in outputs or any(id(n) not in inside for n in values.readers.get(out, []))
        ]
        if len(read) == 1 and len(results) == 1 and any(is_product(values, n) for n in own):
            yield Expert(next(iter(read)), results[0], own)


def _is_part(values: GraphValues, node: onnx.NodeProto) -> bool:
    name = qualified(node)
    cuts = name in CUTTING and all(values.is_constant(operand) for operand in node.input[1:])
    return name in ELEMENTWISE or cuts or is_product(values, node)


def _form(expert: Expert) -> str:
    return " ".join(qualified(node) for node in expert.nodes)


class Different(Exception):
    """Experts are no networks of equal form, or none that is known."""


def in_step(
    values: GraphValues,
    experts: list[Expert],
    visit: Callable[[list[onnx.NodeProto], list[list[str]]], list[str]],
    entry: str,
) -> str:
    """Visit the nodes of equal experts together, each behind those that it reads.

    Parameters
    ----------
    values : GraphValues
        The graph.
    experts : list of Expert
        The experts.
    visit : callable
        Gets a node of each expert, and for each operand one name, which `visit` returned before, or
        the constants of all experts. Returns the names of the results.
    entry : str
        The name that stands for what the experts read.

    Returns
    -------
    str
        The name of the result.

    Raises
    ------
    Different
        If the experts have other forms.
    """
    done: dict[str, str] = dict.fromkeys([experts[0].entry], entry)
    twins: dict[str, tuple[str, ...]] = {experts[0].entry: tuple(e.entry for e in experts)}

    def of(names: tuple[str, ...]) -> list[str]:
        if not any(names):
            return []
        if all(values.is_constant(name) for name in names):
            return list(names)
        if names[0] not in done:
            walk(names)
        if twins.get(names[0]) != names:
            raise Different(f"{names[0]!r} is read in another way than {names[-1]!r}")
        return [done[names[0]]]

    def walk(names: tuple[str, ...]) -> None:
        nodes = [values.makers.get(name) for name in names]
        whole = [node for node in nodes if node is not None]
        if len(whole) != len(names) or len({_kind(node) for node in whole}) != 1:
            raise Different(f"{names[0]!r} is computed in another way than {names[-1]!r}")
        operands = [of(found) for found in zip(*(node.input for node in whole), strict=True)]
        results = visit(whole, operands)
        for place, result in enumerate(results):
            outputs = tuple(node.output[place] for node in whole)
            done[outputs[0]], twins[outputs[0]] = result, outputs

    (result,) = of(tuple(expert.exit for expert in experts))
    return result


def _kind(node: onnx.NodeProto) -> tuple[object, ...]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return qualified(node), len(node.input), len(node.output), repr(sorted(attributes.items()))
