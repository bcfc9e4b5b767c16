"""take(x, i) => take(x, checked(i)), and likewise for all operators that read or write at indices

TVM's operators reach any address for an index out of range. Indices that are constants are checked
here, others by a function that copies them first: nobody can change the copy between the check and
the use. It raises an error where ONNX Runtime does.

Runs before constants are folded, which runs operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import structural_walk

from tvm_sparse.errors import ModelError
from tvm_sparse.schedules.operators.checked_copy import MOST, checked_copy, within

if TYPE_CHECKING:
    from tvm.ir import Expr

NAME = "checked_indices"
"""The name of the functions that check indices."""


@tvm.transform.module_pass(opt_level=0, name="CheckIndices")
class CheckIndices:
    """Check the indices of operators that read or write at indices."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod`, where no index of such an operator can be out of range."""
        checker = _Checker(mod)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                checker.builder_.update_func(gvar, checker.visit_expr(func))
        return checker.builder_.get()


@mutator
class _Checker(PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.layer = ""

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.layer = str(binding.var.name)
        super().visit_var_binding_(binding)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
            return call
        if call.op.name == "relax.tensor_to_shape":
            text = f"a size is out of range in {self.layer}: a tensor has up to {MOST} elements"
            sizes = checked(self.builder_, call.args[0], within([MOST + 1]), text, product=True)
            return relax.op.tensor_to_shape(sizes)
        found = _axes(call)
        if found is None:
            return call
        axes, from_end = found
        indices = call.args[1]
        dtype, shape = str(indices.ty.dtype), indices.ty.shape
        if "int" not in dtype or not isinstance(shape, relax.ShapeExpr):
            return call
        text = index_error(self.layer, axes)
        if isinstance(indices, tvm.ir.GenericConst):
            # A size that is not known is 1 at least.
            least = [size if isinstance(size, int) else 1 for size in axes]
            if _are_within(indices.value.numpy(), least, from_end):
                return _at(call, indices)
            if least == axes:
                raise ModelError(text)
        variables = _variables_of(axes)
        is_valid = within(axes, from_end, variables)
        indices = checked(self.builder_, indices, is_valid, text, sizes=variables)
        return _at(call, indices)


def _at(call: relax.Call, indices: relax.Expr) -> relax.Call:
    """Return a call with indices that are within its axes; TVM warns of the mode "fast"."""
    if call.op.name == "relax.take":
        return relax.op.take(call.args[0], indices, call.attrs.axis, mode="clip")
    return relax.Call(call.op, [call.args[0], indices, *call.args[2:]], call.attrs)


def checked(
    builder: relax.BlockBuilder,
    values: relax.Expr,
    is_valid: Callable[..., Expr],
    text: str,
    product: bool = False,
    sizes: Sequence[Expr] = (),
) -> relax.Var:
    """Return a variable that holds a copy of integers, all of which are valid.

    Parameters
    ----------
    builder : relax.BlockBuilder
        The builder that gets the call and its function.
    values : relax.Expr
        A tensor of integers.
    is_valid, text, product
        As `checked_copy` takes them.
    sizes : sequence of Expr
        Variables of sizes that are known at run time only; `is_valid` gets their values.
    """
    dtype, shape = str(values.ty.dtype), values.ty.shape
    func = checked_copy(list(shape), dtype, is_valid, text, product, len(sizes))
    gvar, ty = builder.add_func(func, NAME), relax.TensorType(shape, dtype)
    return builder.emit(relax.call_tir(gvar, [*sizes, values], ty))


def _axes(call: relax.Call) -> tuple[list[Expr | int], bool] | None:
    """Return the sizes of the axes that a call's indices are for, and whether they count back.

    There is one axis for all indices, or one for each position along the last axis of the indices.
    """
    name = call.op.name
    if name not in _OPERATORS or (name == "relax.take" and call.attrs.mode != "fast"):
        return None
    if not isinstance(call.args[0].ty.shape, relax.ShapeExpr):
        return None
    shape = [int(n) if isinstance(n, tirx.IntImm) else n for n in call.args[0].ty.shape]
    if name in ("relax.gather_nd", "relax.scatter_nd"):
        batch = int(call.attrs.batch_dims) if name == "relax.gather_nd" else 0
        return shape[batch : batch + int(call.args[1].ty.shape[-1])], False
    axis = call.attrs.axis
    size = math.prod(shape) if axis is None else shape[int(axis)]
    return [size], name == "relax.scatter_elements"


_OPERATORS = frozenset(
    f"relax.{name}"
    for name in ("take", "gather_elements", "gather_nd", "scatter_elements", "scatter_nd")
)


def index_error(layer: str, axes: Sequence[Expr | int]) -> str:
    """Return the message of the error for an index that is out of range."""
    sizes = " and ".join(map(str, dict.fromkeys(axes)))
    return f"an index is out of range in {layer}: it is for an axis of {sizes}"


def _variables_of(sizes: Sequence[Expr | int]) -> list[Expr]:
    """Return the variables in sizes, each once, in their order."""
    found: dict[Expr, None] = {}
    for size in sizes:
        if not isinstance(size, int):
            structural_walk(size, (tvm.ir.Var, found.setdefault))
    return list(found)


def _are_within(indices: np.ndarray, axes: Sequence[int], from_end: bool) -> bool:
    sizes = np.array(axes)
    return bool(((indices >= (-sizes if from_end else 0)) & (indices < sizes)).all())
