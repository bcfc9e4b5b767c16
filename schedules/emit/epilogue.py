"""The operators that follow a layer's product while it is still in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm_sparse.costs.elementwise import operations_of, parse
from tvm_sparse.costs.vectors import vector_cycles, vectors_of
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.emit.buffers import argument
from tvm_sparse.schedules.emit.elementwise import expression
from tvm_sparse.sizes.tensor import Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr


@dataclass(frozen=True)
class Epilogue:
    """``activation(product + bias + residual)``.

    Attributes
    ----------
    bias : bool
        Add a value per output channel, ``[N]``, of the panels' type.
    residual : bool
        Add a tensor of the output's shape and type, ``[rows, N, lanes]``.
    activation : str, optional
        A function of `tvm_sparse.costs.elementwise` that may stand in an epilogue.

    Raises
    ------
    ValueError
        If there is no such function.
    """

    bias: bool = False
    residual: bool = False
    activation: str | None = None

    def __post_init__(self) -> None:
        if self.activation is not None:
            function, _ = parse(self.activation)
            if not function.in_epilogue:
                raise ValueError(f"no epilogue can end with {self.activation}")

    @property
    def key(self) -> str:
        """Text that names it in the tuning records."""
        return (
            f"bias={int(self.bias)} residual={int(self.residual)} "
            f"activation={self.activation or 'none'}"
        )

    def declare(
        self, rows: int, channels: int, read: list[tuple[Expr, Sequence[int | Expr]]]
    ) -> tuple[Expr | None, Expr | None]:
        """Declare bias ``[N]`` and residual ``[rows, N]`` of a kernel on rows; None if not there.

        They and their shapes are appended to `read`.
        """
        bias = argument("bias", channels) if self.bias else None
        if bias is not None:
            read.append((bias, (channels,)))
        residual = argument("residual", rows, channels) if self.residual else None
        if residual is not None:
            read.append((residual, (rows, channels)))
        return bias, residual

    def activate(self, value: Expr) -> Expr:
        """Apply the activation to a float32 or float16 value or vector."""
        return value if self.activation is None else expression(self.activation)(value)

    def cycles(self, tensor: Tensor, cpu: CpuProfile) -> float:
        """Return the cycles for all of a tensor, including its store."""
        function = operations_of(self.activation, tensor.dtype) if self.activation else 0.0
        operations = self.bias + self.residual + function
        return vector_cycles(vectors_of(tensor, cpu), self.residual, 1, operations)
