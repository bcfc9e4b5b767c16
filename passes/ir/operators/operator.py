"""The record of an operator: everything that the passes know about it, in one place.

The graph passes rewrite a network into operators on *panels*: tensors
``[rows, channels, lanes]``, float32 or float16, that hold a batch of token sequences or of images.

- Of token sequences, the lanes of a row are the tokens of a block:
  ``rows = batch * ceil(tokens / lanes)``. The channels are the features.
- Of images, a row is a row of the image, and its lanes are the pixels of that row.

Where a block or an image does not fill all lanes, the other lanes hold values that nobody reads.
The images themselves, ``[batch, channels, height, width]``, are also read and written by
convolutions if their width is the number of lanes.

Our operators are ordinary Relax operators with type inference, so a module that contains them
prints, is checked and is transformed like any other. `LowerOperators` and `LowerRegions` turn them
into PrimFuncs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.passes.ir.shapes import known_extents, known_size, lowered
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.extent import Extent

PREFIX = "relax.tvm_sparse."
"""The names of our operators begin with it; those of TVM's operators do not."""

EPILOGUE_OPERANDS = ("bias", "residual")
"""The optional operands of an operator with an epilogue, in the order of its arguments."""
NO_EPILOGUE: Mapping[str, Any] = {**dict.fromkeys(EPILOGUE_OPERANDS, False), "activation": ""}
"""The attributes of an operator with an epilogue that has no steps."""

Infer: TypeAlias = Callable[[relax.Call, relax.BlockBuilder], relax.Type]
"""Returns the type of a call's result."""

StageFor: TypeAlias = Callable[[relax.Call, int, CpuProfile], Stage | None]
"""Returns the stage that computes a call on a number of images, or None if there is no such stage.

An exception is an error in this package.
"""

KernelFor: TypeAlias = Callable[[relax.Call, CpuProfile], tvm.tirx.PrimFunc]
"""Returns the scheduled function of a call."""

Legalize: TypeAlias = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]
"""Returns a call in terms of TVM's tensor expressions."""


def _any_number(_call: relax.Call) -> None:
    """Return that a call works on any number of images."""


def _none(_call: relax.Call) -> Sequence[int]:
    """Return no sizes, or no positions."""
    return ()


@dataclass(frozen=True)
class Operator:
    """An operator of this package, or one of TVM's that can work on panels.

    Attributes
    ----------
    name : str
        The name of the operator in Relax.
    operands : tuple of str
        The names of the tensors that every call has, in the order of its arguments. An operator
        without such names takes any number of tensors, which are called ``x0``, ``x1``, ...
    optional : tuple of str
        The names of tensors that may follow. Of an operator with an epilogue, an attribute of the
        same name tells whether the tensor is there.
    infer : callable, optional
        The type of a result. None for TVM's operators, which have their own inference.
    stage : callable, optional
        The stage that computes a call in a region. Without it, the operator ends every region.
    kernel : callable, optional
        The function that computes a call. Without it, the stage becomes a function by itself.
    images : callable
        Returns on how many images, or sequences, a call works; None if any number will do.
    with_epilogue : bool
        Whether a bias, a residual and an activation can follow while the result is in registers.
    legalize : callable, optional
        Replaces calls that are neither in panels nor in a region.
    sizes : callable
        Returns the sizes of a call that `kernel` takes as parameters where they are an `Extent`.
    takes_sizes : bool
        Whether `stage` and `kernel` compute calls with sizes that are known at run time only.
    any_length : tuple of str
        The names of operands whose length the code does not depend on.
    """

    name: str
    operands: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    infer: Infer | None = None
    stage: StageFor | None = None
    kernel: KernelFor | None = None
    images: Callable[[relax.Call], int | None] = _any_number
    with_epilogue: bool = False
    legalize: Legalize | None = None
    sizes: Callable[[relax.Call], Sequence[int]] = _none
    takes_sizes: bool = False
    any_length: tuple[str, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether it is an operator of this package."""
        return self.name.startswith(PREFIX)

    def call(self, *args: relax.Expr, **attrs: Any) -> relax.Call:
        """Return a call with arguments in the order of `operands`, and without an epilogue."""
        if self.with_epilogue:
            attrs = {**attrs, **NO_EPILOGUE}
        return relax.Call(
            tvm.ir.Op.get(self.name), list(args), tvm.ir.DictAttrs(attrs) if attrs else None
        )

    def operand(self, call: relax.Call, name: str) -> relax.Expr:
        """Return an operand of a call by its name.

        Raises
        ------
        KeyError
            If the call does not have it.
        """
        return self.operands_of(call)[name]

    def operands_of(self, call: relax.Call) -> dict[str, relax.Expr]:
        """Return the tensors that a call reads by name, those of a tuple one by one."""
        flat: list[relax.Expr] = []
        for arg in call.args:
            flat += list(arg.fields) if isinstance(arg, relax.Tuple) else [arg]
        tensors = [arg for arg in flat if isinstance(arg.ty, relax.TensorType)]
        if not self.operands:
            return {f"x{i}": tensor for i, tensor in enumerate(tensors)}
        optional = self.optional
        if self.with_epilogue:
            optional = tuple(name for name in optional if call.attrs[name])
        return dict(zip((*self.operands, *optional), tensors, strict=False))

    def register(self) -> None:
        """Make the operator known to Relax."""
        if self.infer is None:
            return
        if self.name not in tvm.ir.Op.list_op_names():
            tvm.ir._ffi_api.RegisterOp(self.name, f"{self.name} on panels [rows, channels, lanes]")
        tvm.ir.register_op_attr(self.name, "FInferType", self.infer)
        tvm.ir.register_op_attr(self.name, "FPurity", True)
        if self.legalize is not None:
            tvm.ir.register_op_attr(self.name, "FLegalize", self.legalize)


def tensor_type(*shape: Any, dtype: DType = ACTIVATIONS) -> relax.TensorType:
    """Return the type of a tensor of activations."""
    return relax.TensorType([lowered(extent) for extent in shape], dtype)


def dtype_of(value: relax.Expr) -> DType:
    """Return the type of the elements of a tensor of activations, or of words."""
    return DType(str(value.ty.dtype))


def infer_same(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    """Return the type of the first argument."""
    return call.args[0].ty


def of_any_batch(sizes: Any) -> dict[str, Any]:
    """Return the fields of the sizes of an operator on images as an attribute, without the batch.

    A call works on as many images as its operand has, which `batch_of` returns.
    """
    return {
        name: lowered(value) if isinstance(value, Extent) else value
        for name, value in dataclasses.asdict(sizes).items()
        if name != "batch"
    }


def batch_of(x: relax.Expr, height: int) -> int:
    """Return how many images of `height` rows lie in panels, or in a tensor of images."""
    rows, *others = known_extents(x)
    return rows // height if len(others) == 2 else rows


def fields_of(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass that `dataclasses.asdict` made an attribute of."""

    def field(name: str, value: Any) -> Any:
        if name == "dtype":
            return DType(value)
        if isinstance(value, bool | int | str):
            return value
        if isinstance(value, tvm.ir.Expr):
            return known_size(value)
        return tuple(int(v) for v in value)

    return {name: field(name, value) for name, value in attrs.items()}
