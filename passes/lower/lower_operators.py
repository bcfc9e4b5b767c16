"""LowerOperators: our operators => call_tir of scheduled PrimFuncs

Operators that can be stages of tensor columns become kernels of one stage, the others have a
schedule of their own. Layers of one shape share one PrimFunc.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.operators import Layout
from tvm_sparse.passes.ir.operators.stages import STAGES, images_of, stage_of
from tvm_sparse.passes.ir.shapes import static_shape

Kernel = Callable[[relax.Call, CpuProfile], tvm.tirx.PrimFunc]


@tvm.transform.module_pass(opt_level=0, name="LowerOperators")
class LowerOperators:
    """Lower the operators of `tvm_sparse.passes.ir.operators`; all others stay as they are."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its panel operators lowered."""
        others = [name for name in tvm.ir.Op.list_op_names() if name not in KERNELS]
        rules = {name: self._legalize(kernel) for name, kernel in KERNELS.items()}
        return relax.transform.LegalizeOps(rules, skip_ops=others)(mod)

    def _legalize(self, kernel: Kernel) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
        def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
            gvar = builder.add_func(
                kernel(call, self.cpu), call.op.name.removeprefix(operators.PREFIX)
            )
            return _call_batched(builder, gvar, call)

        return legalize


def _call_batched(
    builder: relax.BlockBuilder, gvar: tvm.ir.GlobalVar, call: relax.Call
) -> relax.Expr:
    """Call a kernel; the layout changes' take `(batch, tokens, channels)` and nothing else."""
    args, shape = list(call.args), _shape(call)
    if call.op.name == operators.TO_PANELS:
        args = [builder.emit(relax.op.reshape(args[0], _batched(_shape(args[0]))))]
    if call.op.name == operators.FROM_PANELS:
        result = relax.call_tir(gvar, args, relax.TensorType(_batched(shape), "float32"))
        return relax.op.reshape(builder.emit(result), shape)
    return relax.call_tir(gvar, args, relax.TensorType(shape, "float32"))


def _shape(value: relax.Expr) -> tuple[int, ...]:
    shape = static_shape(value)
    if shape is None:
        raise ValueError(f"panel operators need static shapes, got {value.ty}")
    return shape


def _batched(shape: tuple[int, ...]) -> tuple[int, int, int]:
    layout = Layout.of(shape, 1)
    return layout.batch, layout.tokens, layout.channels


def _to_panels(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.to_panels(*_batched(_shape(call.args[0])), int(call.attrs["lanes"]), cpu)


def _from_panels(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.from_panels(*_batched(_shape(call)), _shape(call.args[0])[2], cpu)


def _global_pool2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    batch, channels, height, width = (int(extent) for extent in call.attrs["shape"])
    lanes = (_shape(call.args[0])[2], int(call.attrs["lanes"]))
    is_max = call.op.name == operators.GLOBAL_MAX_POOL2D
    build = schedules.global_max_pool2d if is_max else schedules.global_avg_pool2d
    return build((batch, channels, height, width), *lanes, cpu)


def _bilinear2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.bilinear2d(operators.resize_of(call), cpu)


def _alone(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    """Return the kernel of an operator that can be a stage."""
    stage = stage_of(call, images_of(call) or 1, cpu)
    if stage is None:
        raise ValueError(f"no stage computes {call}")
    return schedules.kernel(stage)


KERNELS: dict[str, Kernel] = {
    **{name: _alone for name in STAGES if name.startswith(operators.PREFIX)},
    operators.TO_PANELS: _to_panels,
    operators.FROM_PANELS: _from_panels,
    operators.GLOBAL_AVG_POOL2D: _global_pool2d,
    operators.GLOBAL_MAX_POOL2D: _global_pool2d,
    operators.BILINEAR2D: _bilinear2d,
}
