"""Whether the nodes of a model are valid, and what the ONNX standard says that they make.

ONNX's inference runs node by node, with the constants that a node reads. What it leaves open,
`rules` and `indices` check.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvm_sparse.errors import ModelError, reason
from tvm_sparse.frontends.checks.choices import check_choices
from tvm_sparse.frontends.checks.file import fits, limits
from tvm_sparse.frontends.checks.indices import check_indices
from tvm_sparse.frontends.checks.node import CheckedNode
from tvm_sparse.frontends.checks.operands import left_out
from tvm_sparse.frontends.checks.rules import check_rules
from tvm_sparse.frontends.onnx_file import tensor_array

_READ_BY_INFERENCE = 4096
"""The most elements of a constant that ONNX's inference reads: shapes, axes and the like."""

_WINDOWS_BEHIND_THE_IMAGE = {"AveragePool", "LpPool", "MaxPool"}
"""Poolings whose inference counts windows that start behind the image, though they are none."""
_WITHOUT_THEM = 22
"""The opset from which on it leaves them out, as ONNX Runtime always did."""


class InvalidNode(ModelError):
    """A node contradicts the ONNX standard, or makes more than can be compiled."""


def check_nodes(model: onnx.ModelProto, folder: Path) -> dict[str, onnx.TypeProto]:
    """Return the types of the values of the main graph, as far as they are known.

    Parameters
    ----------
    model : onnx.ModelProto
        A model whose inputs have static shapes.
    folder : Path
        The folder that the locations of external weights are relative to.

    Raises
    ------
    InvalidNode
        If a node is not valid.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    walk = _Walk(opset, folder, {}, {})
    walk.graph(model.graph)
    return walk.types


class _Walk:
    """A walk through a graph, which knows the types and the constants of what is above."""

    def __init__(
        self,
        opset: int,
        folder: Path,
        types: Mapping[str, onnx.TypeProto],
        constants: Mapping[str, onnx.TensorProto],
    ) -> None:
        self.opset = opset
        self.folder = folder
        self.types = dict(types)
        self.constants = dict(constants)

    def graph(self, graph: onnx.GraphProto) -> None:
        for value in graph.input:
            self.types[value.name] = value.type
        for tensor in graph.initializer:
            self._hold(tensor.name, tensor)
        for node in graph.node:
            self._node(node)

    def _hold(self, name: str, tensor: onnx.TensorProto) -> None:
        self.constants[name] = tensor
        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)

    def _node(self, node: onnx.NodeProto) -> None:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            return
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            self._hold(node.output[0], node.attribute[0].t)
            return
        inner = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        for graph in inner:
            _Walk(self.opset, self.folder, self.types, self.constants).graph(graph)
        if inner:
            return
        checked = CheckedNode(node, self.types, self.constants, self.folder)
        try:
            check_rules(checked)
            check_choices(checked)
            made = self._inferred(node, checked)
            check_indices(checked)
        except ValueError as error:
            raise InvalidNode(_text(node, reason(error))) from error
        for name, kind in made.items():
            shape = [d.dim_value for d in kind.tensor_type.shape.dim if d.HasField("dim_value")]
            if not fits(shape):
                raise InvalidNode(
                    _text(node, f"it would make {name!r} of shape {shape}; {limits()}")
                )
        self.types.update(made)

    def _inferred(self, node: onnx.NodeProto, checked: CheckedNode) -> Mapping[str, onnx.TypeProto]:
        """Return what ONNX's inference says of the outputs of a node."""
        names = [name for name in node.input if name]
        if not all(name in self.types for name in names):
            return {}
        small = {
            name: _embedded(self.constants[name], self.folder)
            for name in names
            if name in self.constants and np.prod(self.constants[name].dims) <= _READ_BY_INFERENCE
        }
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opset)
            if missing := left_out(node, schema):
                raise ValueError(missing)
            made = self._made(node, self.opset, small)
            if node.op_type in _WINDOWS_BEHIND_THE_IMAGE and self.opset < _WITHOUT_THEM:
                made = self._made(node, _WITHOUT_THEM, small)
        except onnx.defs.SchemaError:  # The operator is of another opset.
            return {}
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            shapes = (checked.shape(i) for i in range(len(node.input)))
            known = " and ".join(str(shape) for shape in shapes if shape is not None)
            raise ValueError(f"{_without_kind(reason(error))} (it reads {known})") from error
        return made

    def _made(
        self, node: onnx.NodeProto, opset: int, constants: Mapping[str, onnx.TensorProto]
    ) -> Mapping[str, onnx.TypeProto]:
        made: Mapping[str, onnx.TypeProto] = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, opset),
            node,
            {name: self.types[name] for name in node.input if name},
            dict(constants),
            opset_imports=[helper.make_opsetid("", opset)],
        )
        return made


def _embedded(tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto:
    if not onnx.external_data_helper.uses_external_data(tensor):
        return tensor
    return numpy_helper.from_array(np.array(tensor_array(tensor, folder)), tensor.name)


def _without_kind(text: str) -> str:
    return text.split("] ", 1)[-1] if text.startswith("[") else text


def _text(node: onnx.NodeProto, wrong: str) -> str:
    return f"not a valid model: node {node.name!r} ({node.op_type}): {wrong}"
