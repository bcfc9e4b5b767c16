"""MeasureSparsity: mod => mod with the density of every weight as an attribute

The module attribute ``tvm_sparse.weights`` has one entry for each operator with a weight, in
program order: ``{"layer", "operator", "shape", "density", "kernel", "refusal", "is_refused"}``.
Operators with a weight are products, convolutions, recurrent layers and tables of rows, one operand
of which is a constant or a parameter of the function. The density of a parameter is -1. Nothing
else changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.formats.density import density_of
from tvm_sparse.layer_report import LOOKED_UP
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.operator import PREFIX
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.passes.sparsify.refusals import refusal

WEIGHTS = "tvm_sparse.weights"
"""The attribute of the module."""

_TABLE = "relax.take"
_WEIGHTED = {
    "relax.matmul": (1, 0),
    "relax.einsum": (0, 1, 2, 3),
    _TABLE: (0,),
    **dict.fromkeys(operators.QUANTIZED, (1,)),
    **dict.fromkeys((f"relax.nn.conv{rank}d" for rank in (1, 2, 3)), (1,)),
    **dict.fromkeys((f"relax.nn.conv{rank}d_transpose" for rank in (1, 2, 3)), (1,)),
}
"""Operators with weights, and the operands that can be one."""

_CARRIERS = tuple(
    f"relax.{name}"
    for name in ("permute_dims", "reshape", "expand_dims", "squeeze", "astype", "dequantize")
)
"""Operators that hand the values of a weight on, in another shape, order or dtype."""

Values = Mapping[relax.Var, relax.Expr]


@tvm.transform.module_pass(opt_level=0, name="MeasureSparsity")
class MeasureSparsity:
    """Annotate the module with the density of its weights."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with the attribute ``tvm_sparse.weights``."""
        found: list[dict[str, Any]] = []
        for _, func in mod.functions_items():
            if isinstance(func, relax.Function):
                found.extend(_measure(func))
        return mod.with_attr(WEIGHTS, found)


def _measure(func: relax.Function) -> Iterator[dict[str, Any]]:
    values: dict[relax.Var, relax.Expr] = {}
    weights = _weights_of(func)
    for binding in _bindings(func.body):
        values[binding.var] = call = binding.value
        weight = _packed_later(call, values)
        if weight is not None:
            array, kernel = weight.value.numpy(), call.op.name.removeprefix(PREFIX)
            yield _entry(binding, call, array.shape, density_of(array), _UNPACKED, kernel)
        if is_call_to(call, operators.BLOCK_MATMUL.name, operators.BLOCK_EXPERTS.name):
            is_experts = call.op.name == operators.BLOCK_EXPERTS.name
            codes = (operators.expert_codes_of if is_experts else operators.block_codes_of)(call)
            yield _entry(binding, call, codes.shape, codes.density, _FEW_BITS)
        if not is_call_to(call, *_WEIGHTED):
            continue
        tensors = list(call.args[0]) if isinstance(call.args[0], relax.Tuple) else call.args
        for position in _WEIGHTED[call.op.name]:
            if position >= len(tensors):
                continue
            weight, is_direct = _source(tensors[position], values)
            if isinstance(weight, tvm.ir.GenericConst):
                array = weight.value.numpy()
                if array.ndim >= 2:
                    reason = _refusal(call, position, is_direct)
                    yield _entry(binding, call, array.shape, density_of(array), reason)
                    break
            elif weight in weights and call.op.name != _TABLE:
                shape = static_shape(weight)
                if shape is not None and len(shape) >= 2:
                    yield _entry(binding, call, shape, -1.0, _PARAMETER)
                    break


_UNPACKED = "no pass packed its weight sparse"
_FEW_BITS = "no pass packed its weight of few bits"
_PARAMETER = (
    "its weight is a parameter of the function, so that its zeros are not known when it is "
    "compiled; make it a constant, such as by relax.transform.BindParams"
)


def _packed_later(call: relax.Expr, values: Values) -> tvm.ir.GenericConst | None:
    """Return the constant weight of one of our operators, which a pass for it packs."""
    if is_call_to(call, operators.RECURRENT.name):
        weight, _ = _source(operators.recurrent_operands(call)["r"], values)
    elif is_call_to(call, operators.EXPERT_LINEAR.name):
        weight = operators.EXPERT_LINEAR.operand(call, "weight")
    else:
        return None
    return weight if isinstance(weight, tvm.ir.GenericConst) else None


def _entry(
    binding: relax.VarBinding,
    call: relax.Call,
    shape: tuple[int, ...],
    density: float,
    reason: str,
    kernel: str = "default",
) -> dict[str, Any]:
    return {
        "layer": binding.var.name,
        "operator": call.op.name.removeprefix("relax.").removeprefix("tvm_sparse."),
        "shape": list(shape),
        "density": density,
        "kernel": kernel,
        "refusal": reason,
        "is_refused": reason != LOOKED_UP,
    }


def _refusal(call: relax.Call, position: int, is_direct: bool) -> str:
    if call.op.name == _TABLE:
        return LOOKED_UP
    if not is_direct:
        return "its weight is computed from a constant when the model runs"
    if is_call_to(call, "relax.matmul") and position == 0:
        return "its weight is the left operand of the product; the kernels take the right one"
    return refusal(call)


def _weights_of(func: relax.Function) -> set[relax.Var]:
    """Return the parameters that hold weights: those of rank 2 or more behind the inputs.

    Without the attribute ``num_input``, any parameter but the first one can hold a weight.
    """
    inputs = int(func.attrs["num_input"]) if func.attrs and "num_input" in func.attrs else 1
    return set(func.params[inputs:])


def _source(operand: relax.Expr, values: Values) -> tuple[relax.Expr, bool]:
    """Return the expression that holds the values of an operand, and whether it is the operand."""
    is_direct = True
    while isinstance(operand, relax.Var) and operand in values:
        call, is_direct = values[operand], False
        if isinstance(call, relax.Var):
            operand = call
        elif is_call_to(call, *_CARRIERS):
            operand = call.args[0]
        else:
            break
    return operand, is_direct


def _bindings(body: relax.Expr) -> Iterator[relax.VarBinding]:
    """Yield the bindings of a function in program order, those of the branches of If too."""
    if not isinstance(body, relax.SeqExpr):
        return
    for block in body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.If):
                yield from _bindings(binding.value.true_branch)
                yield from _bindings(binding.value.false_branch)
            elif isinstance(binding, relax.VarBinding):
                yield binding
