"""A graph that grows node by node, and knows the values of all its tensors.

Every node is run by ONNX Runtime when it is added. So a rule that adds nodes can look at shapes,
dtypes and values, and results can be brought back to a spread near one before signals die or
overflow.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvm_sparse.testing.random_graphs.run_nodes import (
    MICROSOFT,
    Array,
    Unfit,
    opsets,
    run_nodes,
)

Operand = str | NDArray[Any] | None

MOST_ELEMENTS = 20_000
"""The most elements of a tensor that further nodes may read."""
MOST_RANK = 5
"""The most dimensions of such a tensor."""
SPREAD = (0.3, 3.0)
"""The standard deviations that results may have before they are normalized."""
CONTRIBUTED = (
    *("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearConcat"),
    *("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSoftmax", "QLinearWhere", "QGemm"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM"),
)
"""The operators that are no part of the standard, but of ONNX Runtime."""
DENSITIES = (0.0, 0.03, 0.1, 0.1, 0.2, 0.2, 0.5, 1.0, 1.0)
"""The shares of weights that are not zero, of which one is drawn for each layer."""


class Graph:
    """An ONNX graph that grows.

    Parameters
    ----------
    seed : int
        Seed of all choices and values.
    opset : int
        The version of the operators.

    Attributes
    ----------
    values : dict of str to array
        The values of inputs and of results of nodes.
    pool : list of str
        The tensors that further nodes may read.
    read : set of str
        The tensors that were picked by a rule.
    steps : dict of str to (scale, zero point)
        What the tensors of integers stand for that have a known scale.
    """

    def __init__(self, seed: int, opset: int) -> None:
        self.opset = opset
        self.random = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.inputs: list[str] = []
        self.values: dict[str, Array] = {}
        self.pool: list[str] = []
        self.read: set[str] = set()
        self.steps: dict[str, tuple[Array, Array]] = {}

    # Choices.

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self.random.random() < probability

    def choice(self, options: Sequence[Any]) -> Any:
        """Return one of several options."""
        return self.random.choice(options)

    def between(self, lowest: int, highest: int) -> int:
        """Return an integer; both ends are possible."""
        return self.random.randint(lowest, highest)

    def axis(self, rank: int, axis: int | None = None) -> int:
        """Return an axis of a tensor, a random one by default, counted from either end."""
        axis = self.random.randrange(rank) if axis is None else axis
        return axis - rank if self.chance(0.5) else axis

    # Tensors.

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an input or a result."""
        return self.values[name].shape

    def input(self, array: Array) -> str:
        """Add an input of the graph."""
        name = f"input_{len(self.inputs)}"
        self.inputs.append(name)
        self.values[name] = array
        self.pool.append(name)
        return name

    def pick(self, fits: Callable[[Array], bool] = lambda _: True, dtype: str = "float32") -> str:
        """Return a tensor of the pool, most often one that nobody has read yet.

        Raises
        ------
        Unfit
            If none fits.
        """
        names = [
            name
            for name in self.pool
            if self.values[name].dtype == dtype and fits(self.values[name])
        ]
        if not names:
            raise Unfit("no tensor fits")
        alive = [name for name in names if _spread(self.values[name]) > 0]
        names = alive if alive and self.chance(0.9) else names
        unread = [name for name in names if name not in self.read]
        if unread and self.chance(0.7):
            names = unread
        name = names[-1] if self.chance(0.5) else self.choice(names)
        self.read.add(name)
        return str(name)

    def normal(self, shape: Sequence[int]) -> Array:
        """Return normal numbers in single precision."""
        return self.rng.standard_normal(tuple(shape)).astype("float32")

    def weight(self, shape: Sequence[int], inputs: int) -> Array:
        """Return weights of a layer, pruned at random, such that the layer keeps the spread.

        Parameters
        ----------
        shape : sequence of int
            The shape of the weights.
        inputs : int
            The number of products that are summed for an output.
        """
        density = self.choice(DENSITIES)
        kept = self.rng.random(tuple(shape)) < density
        scale = 1 / np.sqrt(max(inputs * density, 1))
        return np.where(kept, self.normal(shape) * scale, 0).astype("float32")

    def vector(self, size: int) -> Array:
        """Return a bias."""
        return 0.5 * self.normal([size])

    # Nodes.

    def add(self, op_type: str, *operands: Operand, **attributes: Any) -> str:
        """Add a node with one output, and return the name of that output.

        An operand is the name of a tensor, an array, which becomes a constant, or None.
        """
        return self.add_all(op_type, *operands, outputs=1, **attributes)[0]

    def add_all(
        self, op_type: str, *operands: Operand, outputs: int, **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs.

        Raises
        ------
        Unfit
            If ONNX Runtime does not run it, or results are not finite.
        """
        feeds: dict[str, Array] = {}
        names: list[str] = []
        for operand in operands:
            name = operand if isinstance(operand, str) else ""
            if operand is not None and not name:
                name = self.constant(np.asarray(operand))
            if name:
                feeds[name] = self.values[name] if name in self.values else self.weights[name]
            names.append(name)
        label = f"{op_type}_{len(self.nodes)}"
        results = [label] if outputs == 1 else [f"{label}_{i}" for i in range(outputs)]
        node = helper.make_node(op_type, names, results, name=label, **attributes)
        if op_type in CONTRIBUTED:
            node.domain = MICROSOFT
        arrays = run_nodes([node], feeds, results, self.opset)
        for array in arrays:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Unfit(f"{label} is not finite")
        self.nodes.append(node)
        self.values.update(zip(results, arrays, strict=True))
        return results

    def constant(self, array: Array) -> str:
        """Add a constant, and return its name."""
        name = f"constant_{len(self.weights)}"
        self.weights[name] = array
        return name

    def settled(self, name: str) -> str:
        """Return a tensor with the values of another one, brought back to a spread near one."""
        array = self.values[name]
        if array.dtype != "float32":
            return name
        spread, mean = _spread(array), float(array.mean())
        if abs(mean) > 3 * max(spread, 1.0):
            name = self.add("Sub", name, np.float32(mean).reshape(self.choice([(), (1,)])))
        if spread > 1e-4 and not SPREAD[0] <= spread <= SPREAD[1]:
            name = self.add("Mul", name, np.float32(1 / spread).reshape(self.choice([(), (1,)])))
        return name

    def publish(self, names: Sequence[str]) -> None:
        """Let further nodes read tensors.

        Raises
        ------
        Unfit
            If a tensor is too large.
        """
        for name in names:
            settled = self.settled(name)
            array = self.values[settled]
            if not 0 < array.size <= MOST_ELEMENTS or array.ndim > MOST_RANK:
                raise Unfit(f"{settled} has the shape {array.shape}")
            self.pool.append(settled)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what was added if it turns out to be `Unfit`."""
        nodes, weights, inputs = len(self.nodes), dict(self.weights), list(self.inputs)
        values, pool, read = dict(self.values), list(self.pool), set(self.read)
        steps = dict(self.steps)
        try:
            yield
        except Unfit:
            del self.nodes[nodes:]
            self.weights, self.inputs = weights, inputs
            self.values, self.pool, self.read, self.steps = values, pool, read, steps


def _spread(array: Array) -> float:
    return float(array.std()) if array.dtype.kind == "f" else 1.0


def to_model(graph: Graph, outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the graph as a model, with those nodes only that the outputs need."""
    needed, nodes = set(outputs), []
    for node in reversed(graph.nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)

    def info(name: str) -> onnx.ValueInfoProto:
        array = graph.values[name]
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, dtype, array.shape)

    proto = helper.make_graph(
        nodes[::-1],
        "random",
        [info(name) for name in graph.inputs if name in needed],
        [info(name) for name in outputs],
        [
            numpy_helper.from_array(array, name)
            for name, array in graph.weights.items()
            if name in needed
        ],
    )
    return helper.make_model(proto, opset_imports=opsets(graph.opset), ir_version=8)
