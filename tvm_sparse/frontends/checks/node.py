"""A node as checks see it: attributes, and what is known about the values that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tvm_sparse.frontends.onnx_file import tensor_array


class CheckedNode:
    """A node of a graph.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.
    types : mapping of str to TypeProto
        The types of values, as far as they are known.
    constants : mapping of str to TensorProto
        The constants in reach.
    folder : Path
        The folder that the locations of external weights are relative to.
    """

    def __init__(
        self,
        node: onnx.NodeProto,
        types: Mapping[str, onnx.TypeProto],
        constants: Mapping[str, onnx.TensorProto],
        folder: Path,
    ) -> None:
        self.op_type = node.op_type
        self.inputs = list(node.input)
        self.outputs = list(node.output)
        self.attributes: dict[str, Any] = {
            a.name: helper.get_attribute_value(a)
            for a in node.attribute
            if a.type in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS)
        }
        self.texts = {
            a.name: a.s.decode(errors="replace")
            for a in node.attribute
            if a.type == onnx.AttributeProto.STRING
        }
        self._types = types
        self._constants = constants
        self._folder = folder

    def shape(self, position: int) -> list[int] | None:
        """Return the shape of an input; None if it has none, or not all of it is known."""
        name = self._name(position)
        # An output that is left out has a type, too, and the empty name.
        if not name or name not in self._types:
            return None
        if not self._types[name].tensor_type.HasField("shape"):
            return None
        dims = self._types[name].tensor_type.shape.dim
        return [d.dim_value for d in dims] if all(d.HasField("dim_value") for d in dims) else None

    def constant(self, position: int) -> np.ndarray | None:
        """Return the values of an input; None if it has none, or they are no constant."""
        name = self._name(position)
        if name not in self._constants:
            return None
        return tensor_array(self._constants[name], self._folder)

    def _name(self, position: int) -> str:
        return self.inputs[position] if position < len(self.inputs) else ""
