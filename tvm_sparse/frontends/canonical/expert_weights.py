"""Equal experts => one network that computes each row with the weights of the expert chosen for it.

The rows are ``[tokens, chosen, 1, channels]``; those of a weight are gathered by the numbers of the
experts ``[tokens, chosen]``, so that `RecomposeExperts` finds products that need no copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvm_sparse.frontends.canonical.expert_bodies import (
    CUTTING,
    PRODUCTS,
    Different,
    Expert,
    in_step,
)
from tvm_sparse.frontends.canonical.graph_values import GraphValues
from tvm_sparse.frontends.nodes import qualified

_LAST = 3
"""The axis of the channels."""


class ChosenWeights:
    """Writes the nodes of a network.

    Parameters
    ----------
    values : GraphValues
        The graph of the experts.
    experts : list of Expert
        The experts, or one for all whose weights are stacked.
    count : int
        How many experts there are.
    rank : int
        The number of dimensions of what an expert reads in the graph.
    prefix : str
        What names begin with.
    numbers : str
        The value that holds the numbers of the experts.

    Attributes
    ----------
    nodes, tensors : list
        What was written.
    """

    def __init__(
        self,
        values: GraphValues,
        experts: list[Expert],
        count: int,
        rank: int,
        prefix: str,
        numbers: str,
    ) -> None:
        self.values, self.experts, self.count, self.rank = values, experts, count, rank
        self.prefix, self.numbers = prefix, numbers
        self.is_stacked = len(experts) == 1
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def write(self, rows: str) -> str:
        """Write the network; return the name of its result.

        Raises
        ------
        Different
            If the experts differ in more than their weights, or have a form that is not known.
        """
        return in_step(self.values, self.experts, self._visit, rows)

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node with one result; return its name."""
        name = self._name(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def tensor(self, array: NDArray[np.generic]) -> str:
        """Add a constant; return its name."""
        name = f"{self.prefix}constant{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _name(self, kind: str) -> str:
        return f"{self.prefix}{kind}{len(self.nodes)}"

    def _visit(self, nodes: list[onnx.NodeProto], operands: list[list[str]]) -> list[str]:
        node, kind = nodes[0], qualified(nodes[0])
        if kind in PRODUCTS:
            return [self._product(node, operands)]
        inputs = []
        for place, names in enumerate(operands):
            if not names or not self.values.is_constant(names[0]):
                inputs.append(names[0] if names else "")
            elif kind in CUTTING or kind == "Clip":
                inputs.append(self._cut(kind, place, self._common(names)))
            else:
                inputs.append(self._operand(names))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = self._name(node.op_type)
        copy.input[:] = inputs
        copy.output[:] = [name and f"{copy.name}_{i}" for i, name in enumerate(node.output)]
        for attribute in copy.attribute:
            if attribute.name == "axis":
                attribute.i = self._last(attribute.i)
        if kind == "Split" and not any(a.name == "axis" for a in node.attribute):
            raise Different("it splits tokens")
        if kind == "Slice" and len(node.input) < 4:
            raise Different("it cuts tokens")
        self.nodes.append(copy)
        return list(copy.output)

    def _last(self, axis: int) -> int:
        if axis not in (-1, self.rank - 1):
            raise Different("it cuts another axis than the last one")
        return _LAST

    def _cut(self, kind: str, place: int, array: NDArray[np.generic]) -> str:
        if kind == "Slice" and place == _LAST:
            array = np.array([self._last(int(axis)) for axis in array.ravel()], array.dtype)
        return self.tensor(array)

    def _arrays(self, names: Sequence[str]) -> list[NDArray[np.generic]]:
        arrays = [self.values.constant(name) for name in names]
        found = [array for array in arrays if array is not None]
        if len(found) != len(arrays) or len({(a.shape, a.dtype) for a in found}) != 1:
            raise Different("constants of experts have different shapes")
        return found

    def _common(self, names: Sequence[str]) -> NDArray[np.generic]:
        """Return a constant that all experts have."""
        first, *others = self._arrays(names)
        if not all(np.array_equal(first, other) for other in others):
            raise Different("experts differ in more than their weights")
        return first

    def _operand(self, names: Sequence[str]) -> str:
        """Return an operand that is one number, or one for each channel."""
        first, *others = self._arrays(names)
        if self.is_stacked and first.ndim == _LAST and first.shape[:2] == (self.count, 1):
            return self._chosen(first)
        if first.size != (first.shape[-1] if first.ndim else 1):
            raise Different("an operand differs from row to row")
        if all(np.array_equal(first, other) for other in others):
            return self.tensor(first.reshape(first.shape[-1:]))
        return self._chosen(np.stack([first, *others]).reshape(self.count, 1, -1))

    def _chosen(self, stack: NDArray[np.generic]) -> str:
        return self.op("Gather", [self.tensor(stack), self.numbers], axis=0)

    def _product(self, node: onnx.NodeProto, operands: list[list[str]]) -> str:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        weights = self._arrays(operands[1])
        stack = weights[0] if self.is_stacked else np.stack(weights)
        if stack.ndim != _LAST or len(stack) != self.count or attributes.get("transA", 0):
            raise Different("a weight is no matrix for each expert")
        if attributes.get("transB", 0):
            stack = stack.transpose(0, 2, 1)
        if (factor := attributes.get("alpha", 1.0)) != 1.0:
            stack = (stack * factor).astype(stack.dtype)
        product = self.op("MatMul", [operands[0][0], self._chosen(stack)])
        if len(operands) < _LAST or not operands[2]:
            return product
        biases = [array * attributes.get("beta", 1.0) for array in self._arrays(operands[2])]
        wide = [np.broadcast_to(array, (1, stack.shape[2])) for array in biases]
        bias = wide[0] if len(wide) == 1 else np.stack(wide)
        of_row = self._chosen(bias) if bias.ndim == _LAST else self.tensor(bias)
        return self.op("Add", [product, of_row])
