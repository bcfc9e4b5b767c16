"""LowerOperators: our operators => call_tir of scheduled PrimFuncs

Operators that can be stages of tensor columns become kernels of one stage; the others have their
own schedules. Layers of one shape share one PrimFunc, which is emitted once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import tvm
from tvm import relax
from tvm_ffi import StructuralKey

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators import (
    FROM_PANELS,
    INT8_ROW_LINEAR,
    OPERATORS,
    ROW_KERNELS,
    ROW_LINEAR,
    SPARSE_ROW_LINEAR,
    TO_PANELS,
)
from tvm_sparse.passes.ir.operators.layouts import batched, lanes_of
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, dtype_of, tensor_type
from tvm_sparse.passes.ir.operators.stages import images_of, stage_of
from tvm_sparse.passes.ir.shapes import known_extents, known_shape, lowered, reshaped
from tvm_sparse.passes.ir.structure import structure_of
from tvm_sparse.schedules.emit.sizes import parameters_of


@tvm.transform.module_pass(opt_level=0, name="LowerOperators")
class LowerOperators:
    """Lower the operators of `tvm_sparse.passes.ir.operators`; TVM's stay as they are."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its panel operators lowered."""
        others = [name for name in tvm.ir.Op.list_op_names() if name not in KERNELS]
        emitted: dict[StructuralKey, Kernel] = {}
        rules = {name: self._legalize(kernel, emitted) for name, kernel in KERNELS.items()}
        return relax.transform.LegalizeOps(rules, skip_ops=others)(mod)

    def _legalize(
        self,
        kernel: Callable[[relax.Call, CpuProfile], Kernel],
        emitted: dict[StructuralKey, Kernel],
    ) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
        def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
            if _is_view(call):
                return reshaped(call.args[0], known_extents(call))
            key = structure_of([relax.VarBinding(relax.Var("y", call.ty), call)])
            if key not in emitted:
                emitted[key] = kernel(call, self.cpu)
            func, sizes = emitted[key]
            gvar = builder.add_func(func, call.op.name.removeprefix(PREFIX))
            return _call_batched(builder, gvar, call, [lowered(size) for size in sizes])

        return legalize


def _call_batched(
    builder: relax.BlockBuilder,
    gvar: tvm.ir.GlobalVar,
    call: relax.Call,
    sizes: list[relax.Expr],
) -> relax.Expr:
    """Call a kernel.

    Those of layout changes work on ``(batch, tokens, channels)`` only, and those of layers on
    panels of one lane on matrices ``(rows, channels)``. Kernels take `sizes` behind the operands.
    """
    args = list(call.args)
    if isinstance(call.ty, relax.TupleType):
        return relax.call_tir(gvar, [*args, *sizes], list(call.ty.fields))
    shape = known_extents(call)
    if call.op.name in _OF_ONE_LANE:
        operands = OPERATORS[call.op.name].operands_of(call)
        for name in operands.keys() & {"x", "residual"}:
            panels = operands[name]
            operands[name] = builder.emit(relax.op.reshape(panels, known_shape(panels)[:2]))
        result = relax.call_tir(
            gvar, list(operands.values()), tensor_type(*shape[:2], dtype=dtype_of(call))
        )
        return relax.op.reshape(builder.emit(result), shape)
    if call.op.name == TO_PANELS.name:
        (x,) = args
        args = [builder.emit(reshaped(x, batched(known_extents(x))))]
    if call.op.name == FROM_PANELS.name:
        result = relax.call_tir(gvar, [*args, *sizes], tensor_type(*batched(shape)))
        return reshaped(builder.emit(result), shape)
    return relax.call_tir(gvar, [*args, *sizes], tensor_type(*shape, dtype=dtype_of(call)))


_OF_ONE_LANE = (
    *(ROW_LINEAR.name, SPARSE_ROW_LINEAR.name, INT8_ROW_LINEAR.name),
    *ROW_KERNELS,
)


def _is_view(call: relax.Call) -> bool:
    """Whether a change between tokens and panels of one lane leaves everything in its place."""
    if call.op.name == TO_PANELS.name:
        return int(call.attrs["lanes"]) == 1
    return call.op.name == FROM_PANELS.name and lanes_of(call.args[0]) == 1


Kernel: TypeAlias = "tuple[tvm.tirx.PrimFunc, Sequence[int]]"
"""The function of a call, and the sizes that it takes."""


def _alone(call: relax.Call, cpu: CpuProfile) -> Kernel:
    """Return the kernel of an operator that can be a stage."""
    stage = stage_of(call, images_of(call) or 1, cpu)
    if stage is None:
        raise ValueError(f"no stage computes {call}")
    return schedules.kernel(stage), stage.sizes


def _own(operator: Operator) -> Callable[[relax.Call, CpuProfile], Kernel]:
    """Return what makes the kernels of an operator."""
    make = operator.kernel
    if make is None:
        return _alone
    return lambda call, cpu: (make(call, cpu), parameters_of(operator.sizes(call)))


KERNELS: dict[str, Callable[[relax.Call, CpuProfile], Kernel]] = {
    name: _own(operator)
    for name, operator in OPERATORS.items()
    if operator.is_own and operator.legalize is None
}
"""What lowers each of our operators that TVM cannot lower."""
