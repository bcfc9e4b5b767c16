"""Elementwise operators on panels, as stages of regions.

On their own these operators stay with TVM, which fuses them with one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tvm.tirx.script import builder as T

from tvm_sparse.costs.elementwise import operations_of, parse
from tvm_sparse.costs.vectors import vector_cycles, vectors_of
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.emit.buffers import argument
from tvm_sparse.schedules.emit.elementwise import expression
from tvm_sparse.schedules.emit.panel_memory import Panels
from tvm_sparse.schedules.emit.row_vectors import each_vector
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.sizes.tensor import RowMap, Tensor

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr


def elementwise(
    operator: str, tensor: Tensor, shapes: Sequence[Sequence[int]], cpu: CpuProfile
) -> tvm.tirx.PrimFunc:
    """Build the kernel of an elementwise operator.

    Parameters
    ----------
    operator, tensor, shapes, cpu
        As `Elementwise`.

    Returns
    -------
    PrimFunc
        ``(operands..., y [rows, channels, lanes])``, all of them of the tensor's type.
    """
    return kernel(Elementwise(operator, tensor, shapes, cpu))


def broadcasts(shape: Sequence[int], tensor: Tensor) -> bool:
    """Whether `Elementwise` can read an operand of a shape for a result `tensor`."""
    rows, channels = tensor.images * tensor.rows, tensor.channels
    known = [(rows, channels, tensor.lanes), (rows, channels, 1), (channels, 1), (1, channels, 1)]
    return tuple(shape) in known or math.prod(shape) == 1


class Elementwise(Stage):
    """``y = f(a)`` or ``y = f(a, b)``, with an operand broadcast if it is smaller than the result.

    Parameters
    ----------
    operator : str
        A function of `tvm_sparse.costs.elementwise`, with its parameters: ``leaky_relu(0.1)``.
    tensor : Tensor
        The result.
    shapes : sequence of shapes
        The shapes of the operands. Each is the shape of the result's panels; ``[rows, channels,
        1]``, panels of one lane; ``[channels, 1]`` or ``[1, channels, 1]``, a value per channel; or
        the shape of a single value.
    cpu : CpuProfile
        Gives the vector length.

    Raises
    ------
    ValueError
        If the operator is unknown or has another number of operands, or a shape is none of these.
    """

    name = "elementwise"

    def __init__(
        self, operator: str, tensor: Tensor, shapes: Sequence[Sequence[int]], cpu: CpuProfile
    ) -> None:
        self.function, (known, _) = expression(operator), parse(operator)
        if len(shapes) != known.operands:
            raise ValueError(f"{operator} does not take {len(shapes)} operands")
        self.operator, self.tensor, self.cpu = operator, tensor, cpu
        self.width = cpu.vector_width(tensor.lanes, tensor.dtype)
        self.shapes = [tuple(shape) for shape in shapes]
        rows, channels = tensor.images * tensor.rows, tensor.channels
        of_rows = [(rows, channels, lanes) for lanes in (tensor.lanes, 1)]
        self.panels = {
            f"x{i}": (replace(tensor, lanes=shape[2]), RowMap())
            for i, shape in enumerate(self.shapes)
            if shape in of_rows
        }
        for shape in self.shapes:
            if not broadcasts(shape, tensor):
                raise ValueError(f"an operand of shape {shape} does not broadcast to {tensor}")

    def declare(self, panels: Callable[[str], Panels]) -> None:
        """Declare the operands."""
        self.operands: list[Any] = [
            panels(name) if name in self.panels else argument(name, *shape, dtype=self.tensor.dtype)
            for name, shape in self._named_shapes()
        ]

    def compute(self, y: Panels, image: Expr, first: Expr, end: Expr, chunk: Expr | None) -> None:
        """Compute rows ``[first, end)`` of an image."""
        tensor = self.tensor
        for row, _ in self.each_tile(first, end):
            reads = [self._read(i, image, row) for i in range(len(self.operands))]
            tile = y.tile(image, row)
            for channel, lane in each_vector(tensor.channels, tensor.lanes, self.width):
                value = self.function(*(read(channel, lane) for read in reads))
                tile.store(value, 0, channel, lane)

    def _read(self, i: int, image: Expr, row: Expr) -> Callable[[Expr, Expr], Expr]:
        """Return a function that reads a vector of an operand at (channel, lanes)."""
        operand, shape = self.operands[i], self.shapes[i]
        if f"x{i}" not in self.panels:
            is_value = math.prod(shape) == 1

            def constant(channel: Expr, lane: Expr) -> Expr:
                place = [T.int64(0) if extent == 1 or is_value else channel for extent in shape]
                return T.Broadcast(operand[tuple(place)], self.width)

            return constant
        tile = operand.tile(image, row)
        if shape[2] == 1:
            return lambda channel, lane: T.Broadcast(tile[0, channel, T.int64(0)], self.width)
        return lambda channel, lane: tile[0, channel, lane]

    def work(self) -> int:
        """Return how many values it computes."""
        return self.tensor.elements

    def cycles(self) -> float:
        """Return the compute cycles of all rows, summed over cores."""
        operations = operations_of(self.operator, self.tensor.dtype)
        return vector_cycles(vectors_of(self.tensor, self.cpu), len(self.panels), 1, operations)

    def key(self) -> str:
        """Return the text that tuning records know the stage by; the tensors are not part of it."""
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"{self.name} {self.operator} of {shapes}"

    def weight_bytes(self) -> int:
        """Return the bytes of the operands that are not panels."""
        others = (shape for name, shape in self._named_shapes() if name not in self.panels)
        return sum(self.tensor.dtype.bytes * math.prod(shape) for shape in others)

    def _named_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the operands' names and shapes."""
        return [(f"x{i}", shape) for i, shape in enumerate(self.shapes)]
