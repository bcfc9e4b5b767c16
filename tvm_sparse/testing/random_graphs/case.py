"""A random graph with its inputs and the options that it is compiled with, made from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tvm_sparse.testing.random_graphs import (
    arithmetic,
    images,
    integer_operators,
    integer_products,
    networks,
    quantized,
    reductions,
    tokens,
    views,
)
from tvm_sparse.testing.random_graphs.graph import Graph, to_model
from tvm_sparse.testing.random_graphs.run_nodes import Array
from tvm_sparse.verification.comparison import Reference

Rule = Callable[[Graph], list[str]]

_OPSETS = (13, 14, 17, 17, 18, 20, 21, 23)

_STYLES = {
    "tokens": {"tokens": 3.0, "images": 0.1},
    "images": {"tokens": 0.4, "images": 2.5},
    "mixed": {"tokens": 1.0, "images": 1.0},
}
"""How much likelier rules of a file are in a graph of a style."""

_FILES = {
    "views": views.RULES,
    "arithmetic": arithmetic.RULES,
    "reductions": reductions.RULES,
    "tokens": tokens.RULES,
    "images": images.RULES,
    "networks": networks.RULES,
    "quantized": quantized.RULES,
}

_AMONG_INTEGERS = {
    integer_operators: 1.0,
    integer_products: 1.0,
    quantized: 0.6,
    arithmetic: 0.05,
    images: 0.05,
    views: 0.05,
}
"""How likely rules are in a graph of quantized operators."""


@dataclass(frozen=True)
class Options:
    """How a model is compiled.

    Attributes
    ----------
    target : str
        The name of the target; this machine can run its code.
    threads : int
        The number of threads.
    columns : str or int
        As `tvm_sparse.compile` takes it.
    forces_integers : bool
        Whether all layers that have kernels of integers take one, at random.
    """

    target: str = "native"
    threads: int = 1
    columns: Any = "auto"
    forces_integers: bool = False


@dataclass(frozen=True)
class Case:
    """A model to compile.

    Attributes
    ----------
    model : onnx.ModelProto
        The model, with static shapes.
    inputs : dict of str to array
        Its inputs.
    options : Options
        How it is compiled.
    """

    model: onnx.ModelProto
    inputs: dict[str, Array]
    options: Options


def random_case(seed: int, nodes: int = 12, integers: bool = False) -> Case:
    """Return a random graph.

    Parameters
    ----------
    seed : int
        The seed; the same one gives the same graph.
    nodes : int
        The graph grows until it has at least this many nodes.
    integers : bool
        Whether most of its operators are quantized.
    """
    choices = random.Random(f"options {seed}")
    options = Options(
        target=choices.choice(["native", "native", "native", "haswell"]),
        threads=choices.choice([1, 2]),
        columns=choices.choice(["auto", "auto", "off", 1, 3]),
        forces_integers=integers and choices.random() < 0.6,
    )
    graph = Graph(seed, choices.choice(_OPSETS))
    style = choices.choice(list(_STYLES))
    _add_inputs(graph, style)
    rules, weights = _rules_of_integers() if integers else _rules(style)
    while len(graph.nodes) < nodes:
        (rule,) = choices.choices(rules, weights)
        with graph.attempt():
            graph.publish(rule(graph))
    outputs = _outputs(graph, choices)
    model = to_model(graph, outputs)
    names = [value.name for value in model.graph.input]
    return Case(model, {name: graph.values[name] for name in names}, options)


def _rules(style: str) -> tuple[list[Rule], list[float]]:
    factors = _STYLES[style]
    pairs = [
        (rule, weight * factors.get(file, 1.0))
        for file, rules in _FILES.items()
        for weight, rule in rules
    ]
    return [rule for rule, _ in pairs], [weight for _, weight in pairs]


def _rules_of_integers() -> tuple[list[Rule], list[float]]:
    pairs = [
        (rule, weight * factor)
        for file, factor in _AMONG_INTEGERS.items()
        for weight, rule in file.RULES
    ]
    return [rule for rule, _ in pairs], [weight for _, weight in pairs]


def _add_inputs(graph: Graph, style: str) -> None:
    batch = graph.choice([1, 1, 2, 3])
    size = graph.choice([5, 7, 8, 9, 14, 16, 17, 33])
    image = [batch, graph.choice([1, 3, 4, 8, 16]), size, graph.choice([size, 6, 11, 16, 20, 35])]
    length = graph.choice([1, 2, 5, 7, 8, 12, 16, 17, 32, 37])
    sequence = [batch, length, graph.choice([8, 12, 16, 24, 33])]
    if style != "images":
        graph.input(graph.normal(sequence))
    if style != "tokens":
        graph.input(graph.normal(image))
    if graph.chance(0.3):
        sequence[1] = graph.choice([1, 3, 6, 10])
        graph.input(graph.normal(sequence))
    if graph.chance(0.2):
        graph.input(graph.normal([graph.between(1, 20), graph.choice([4, 16, 20])]))
    if graph.chance(0.2):
        dtype = graph.choice(["int64", "int32"])
        graph.input(graph.rng.integers(0, 12, sequence[:2]).astype(dtype))
    if graph.chance(0.1):
        graph.input(graph.rng.random(sequence[:2]) < 0.6)


def _outputs(graph: Graph, choices: random.Random) -> list[str]:
    """Return most of the tensors that nobody reads, and some that are also read inside."""
    results = [name for name in graph.pool if name not in graph.inputs]
    read = {name for node in graph.nodes for name in node.input}
    outputs = [name for name in results if name not in read]
    outputs = outputs[-5:] or results[-1:]
    inner = [name for name in results if name not in outputs]
    if inner and choices.random() < 0.5:
        outputs += choices.sample(inner, min(len(inner), choices.randint(1, 2)))
    choices.shuffle(outputs)
    if choices.random() < 0.3:  # other outputs keep operators from being fused
        outputs = [max(outputs, key=lambda name: len(to_model(graph, [name]).graph.node))]
    return outputs


def values_of(case: Case, names: list[str]) -> dict[str, np.ndarray]:
    """Return the values of tensors of a model, as ONNX Runtime computes them unoptimized."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return Reference(model, Path()).run(case.inputs)
