"""What a converter is given: one node of an ONNX graph, with its inputs in Relax."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.check_indices import checked


class Attributes(dict[str, Any]):
    """The attributes of a node, which note the names that are asked for."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute, or `default`."""
        self.read.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove an attribute and return its value, or `default`."""
        self.read.add(name)
        return super().pop(name, *default)


class Inputs(list[Any]):
    """The inputs of a node, None where it has none, which note the positions that are asked for."""

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__(values)
        self.read: set[int] = set()

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        position = position + len(self) if position < 0 else position
        self.read.add(position)
        return super().__getitem__(position) if position < len(self) else None

    def __iter__(self) -> Any:
        self.read.update(range(len(self)))
        return super().__iter__()

    def __add__(self, others: Any) -> Any:
        """Return inputs with others behind them; what is read of them was read of these, too."""
        longer = Inputs([*super().__add__(list(others))])
        longer.read = self.read
        return longer


@dataclass
class Node:
    """A node to convert.

    Attributes
    ----------
    builder : relax.BlockBuilder
        The builder that gets the operators.
    op_type : str
        The operator; its domain precedes it if that is not the domain of ONNX itself.
    opset : int
        The version of the operators.
    inputs : Inputs
        What the node reads, as tensors, constants or shapes in Relax.
    attributes : Attributes
        The attributes that the file gives.
    outputs : int
        How many results the graph names.
    tvm : callable
        TVM's converter, as a function of inputs and attributes.
    standard : callable
        The converter of an operator of ONNX, as a function of its name, inputs and attributes.
    """

    builder: relax.BlockBuilder
    op_type: str
    opset: int
    inputs: Inputs
    attributes: Attributes
    outputs: int
    tvm: Callable[[list[Any], dict[str, Any]], Any] = field(repr=False)
    standard: Callable[[str, list[Any], Attributes], Any] = field(repr=False)

    def by_tvm(self) -> Any:
        """Return what TVM's converter makes of the node as it is now."""
        return self.tvm(self.inputs, self.attributes)

    def convert(self, op_type: str, inputs: Sequence[Any], attributes: Attributes) -> Any:
        """Return the result of another operator of ONNX, of which this one is made.

        What it asks of `attributes` counts as asked for by this node.
        """
        return self.standard(op_type, list(inputs), attributes)

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Return a variable that holds `expr`, called as the node."""
        name = re.sub(r"\W+", "_", str(self.attributes["tvm_custom"]["name"])).strip("_")
        return self.builder.emit(expr, name)

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is text."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def ints(self, name: str, default: Sequence[int]) -> list[int]:
        """Return an attribute that is a list of integers."""
        return [int(value) for value in self.attributes.get(name, default)]

    def shape(self, position: int) -> list[int]:
        """Return the static shape of an input.

        Raises
        ------
        NotImplementedError
            If its shape is known at run time only.
        """
        return shape_of(self.inputs[position])

    def dtype(self, position: int) -> str:
        """Return the element type of an input."""
        return str(self.inputs[position].ty.dtype)

    def constant(self, position: int, name: str) -> np.ndarray | None:
        """Return the values of an input that the converter needs to know, None if it has none.

        Raises
        ------
        NotImplementedError
            If the values are known at run time only.
        """
        value = self.inputs[position]
        if value is None:
            return None
        if isinstance(value, relax.ShapeExpr) and all(
            isinstance(size, tvm.tirx.IntImm) for size in value.values
        ):
            return np.array([int(size) for size in value.values], "int64")
        if isinstance(value, tvm.ir.GenericConst):
            return np.asarray(value.value.numpy())
        raise NotImplementedError(f"its input {name!r} is computed at run time")

    def checked(
        self,
        position: int,
        is_valid: Callable[[Any, Any], Any],
        text: str,
        product: bool = False,
    ) -> relax.Expr:
        """Return a copy of an input of integers that ends in an error if a value is not valid.

        A constant is returned as it is: `tvm_sparse.frontends.checks` has checked it.
        """
        value = self.inputs[position]
        if isinstance(value, tvm.ir.GenericConst):
            return value
        return checked(self.builder, value, is_valid, f"{text} ({self.op_type})", product)

    def required(self, position: int, name: str) -> np.ndarray:
        """Return the values of an input that the node must have, as `constant` does."""
        values = self.constant(position, name)
        if values is None:
            raise NotImplementedError(f"it has no input {name!r}")
        return values


def shape_of(value: relax.Expr) -> list[int]:
    """Return the static shape of a tensor.

    Raises
    ------
    NotImplementedError
        If its shape is known at run time only.
    """
    shape = getattr(value.ty, "shape", None)
    if shape is None or not all(isinstance(size, tvm.tirx.IntImm) for size in shape):
        raise NotImplementedError("it has an input whose shape is known at run time only")
    return [int(size) for size in shape]
