"""Nodes of an ONNX model, cut out as a model of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.nodes import qualified, reads
from tvm_sparse.frontends.onnx_file import external_tensors, graphs_of, tensor_array
from tvm_sparse.frontends.optimizable import optimizable
from tvm_sparse.frontends.value_types import ValueType
from tvm_sparse.specs import TensorSpec

# Protobuf's limit is 2 GB for a message.
_LARGEST = 1_900_000_000


@dataclass(frozen=True)
class Submodel:
    """A part of a model that ONNX Runtime runs.

    Attributes
    ----------
    key : str
        A hash of `content`.
    content : bytes
        The ONNX model, with its weights.
    outputs : tuple of TensorSpec
        Its outputs; a dimension is -1 if it is known only at run time.
    """

    key: str
    content: bytes
    outputs: tuple[TensorSpec, ...]


class ModelGraph:
    """Who reads what in the main graph of a model."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self.model = model
        self.folder = folder
        self.nodes = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.sparse_weights = {
            tensor.values.name: tensor for tensor in model.graph.sparse_initializer
        }
        self.constants = {node.output[0]: node for node in self.nodes if node.op_type == "Constant"}
        self.reads = [reads(node) for node in self.nodes]
        self.producer = {
            name: position
            for position, node in enumerate(self.nodes)
            if node.op_type != "Constant"
            for name in node.output
            if name
        }
        self.readers: dict[str, list[int]] = {name: [] for name in self.producer}
        self.predecessors: list[list[int]] = []
        self.successors: list[list[int]] = [[] for _ in self.nodes]
        for position, names in enumerate(self.reads):
            known = [name for name in names if name in self.producer]
            self.predecessors.append(sorted({self.producer[name] for name in known}))
            for name in known:
                self.readers[name].append(position)
            for producer in self.predecessors[-1]:
                self.successors[producer].append(position)

    def with_constants_readers(self, reasons: Mapping[int, str]) -> dict[int, str]:
        """Return `reasons` with the readers of a constant in place of the constant.

        A constant is part of every group that reads it.
        """
        refused = {
            self.nodes[position].output[0]: reason
            for position, reason in reasons.items()
            if self.nodes[position].op_type == "Constant"
        } | {
            name: f"it works on {name!r}, a tensor(string)"
            for name, tensor in self.weights.items()
            if tensor.data_type == onnx.TensorProto.STRING
        }
        found = {
            node: why for node, why in reasons.items() if self.nodes[node].op_type != "Constant"
        }
        for position, names in enumerate(self.reads):
            for name in names:
                if name in refused:
                    found.setdefault(position, refused[name])
        return found

    def submodel(
        self, group: Sequence[int], types: Mapping[str, ValueType]
    ) -> tuple[list[str], Submodel]:
        """Return the inputs of a group, and the group as a model."""
        inside, nodes = set(group), [self.nodes[position] for position in group]
        read = dict.fromkeys(name for position in group for name in self.reads[position])
        produced = dict.fromkeys(name for node in nodes for name in node.output if name)
        inputs = [
            name
            for name in read
            if name not in produced
            and name
            not in (self.weights.keys() | self.sparse_weights.keys() | self.constants.keys())
        ]
        outputs = [
            name
            for name in produced
            if name in self.outputs or not inside.issuperset(self.readers[name])
        ]
        graph = helper.make_graph(
            [self.constants[name] for name in read if name in self.constants] + nodes,
            "tvm_sparse",
            [_value_info(name, types) for name in inputs],
            [_value_info(name, types) for name in outputs],
            [self.weights[name] for name in read if name in self.weights],
        )
        graph.sparse_initializer.extend(
            self.sparse_weights[name] for name in read if name in self.sparse_weights
        )
        part = helper.make_model(graph, opset_imports=self.model.opset_import)
        for tensor in external_tensors(part):
            values = np.ascontiguousarray(tensor_array(tensor, self.folder))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        tensors = (tensor for graph in graphs_of(part.graph) for tensor in graph.initializer)
        if sum(len(tensor.raw_data) for tensor in tensors) > _LARGEST:
            raise ModelError(
                f"node {nodes[0].name!r} ({qualified(nodes[0])}) is in a part of more than 2 GB "
                "that ONNX Runtime would have to run; that is not supported"
            )
        part.ir_version = self.model.ir_version
        part.functions.extend(self.model.functions)
        content = optimizable(part).SerializeToString(deterministic=True)
        specs = tuple(_spec(name, types[name]) for name in outputs)
        return inputs, Submodel(hashlib.sha256(content).hexdigest(), content, specs)


def _value_info(name: str, types: Mapping[str, ValueType]) -> onnx.ValueInfoProto:
    found = types[name]
    if found.dtype is None:
        raise ModelError(f"{name!r} is a {found.described}; inputs and outputs must be arrays")
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(found.dtype))
    shape = found.shape and [None if size < 0 else size for size in found.shape]
    return helper.make_tensor_value_info(name, elem_type, shape)


def _spec(name: str, found: ValueType) -> TensorSpec:
    if found.dtype is None or found.shape is None:
        raise ModelError(f"the number of dimensions of {name!r} is known only at run time")
    return TensorSpec(name, found.shape, found.dtype)
