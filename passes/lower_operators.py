"""LowerOperators: our operators => call_tir of scheduled PrimFuncs

Every operator is lowered by the schedule of its name in `tvm_sparse.schedules`, for the CPU that
the module is compiled for. Layers of one shape share one PrimFunc.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.formats import SparseTiling
from tvm_sparse.passes import operators
from tvm_sparse.passes.operators import Layout, static_shape
from tvm_sparse.schedules.epilogue import Epilogue
from tvm_sparse.targets import CpuProfile

Lowering = Callable[[relax.Call, CpuProfile], tvm.tirx.PrimFunc]


@tvm.transform.module_pass(opt_level=0, name="LowerOperators")
class LowerOperators:
    """Lower the operators of `tvm_sparse.passes.operators`; all others stay as they are."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = target if isinstance(target, CpuProfile) else CpuProfile.from_target(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its panel operators lowered."""
        others = [n for n in tvm.ir.Op.list_op_names() if n.startswith("relax.") and n not in RULES]
        rules = {name: self._legalize(rule) for name, rule in RULES.items()}
        return relax.transform.LegalizeOps(rules, skip_ops=others)(mod)

    def _legalize(self, rule: Lowering) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
        def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
            func = rule(call, self.cpu).without_attr("global_symbol")
            gvar = builder.add_func(func, call.op.name.removeprefix(operators.PREFIX))
            return relax.call_tir(gvar, list(call.args), out_ty=call.ty)

        return legalize


def _epilogue(call: relax.Call) -> Epilogue:
    attrs = call.attrs
    return Epilogue(bool(attrs["bias"]), bool(attrs["residual"]), str(attrs["activation"]) or None)


def _shape(value: relax.Expr) -> tuple[int, ...]:
    shape = static_shape(value)
    if shape is None:
        raise ValueError(f"panel operators need static shapes, got {value.ty}")
    return shape


def _to_panels(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    shape = _shape(call.args[0])
    layout = Layout.of(shape, int(call.attrs["lanes"]))
    return schedules.to_panels(shape, layout.lanes, cpu)


def _from_panels(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.from_panels(_shape(call), _shape(call.args[0])[2], cpu)


def _sparse_linear(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    rows, in_channels, lanes = _shape(call.args[0])
    tiling = SparseTiling(**{k: int(v) for k, v in call.attrs["tiling"].items()})
    channels = int(call.attrs["channels"])
    return schedules.sparse_linear(rows, lanes, channels, in_channels, tiling, _epilogue(call), cpu)


def _linear(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    rows, in_channels, lanes = _shape(call.args[0])
    return schedules.linear(
        rows, lanes, int(call.attrs["channels"]), in_channels, _epilogue(call), cpu
    )


def _layer_norm(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    rows, channels, lanes = _shape(call.args[0])
    return schedules.layer_norm(rows, channels, lanes, float(call.attrs["epsilon"]), cpu)


def _attention(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    attrs = call.attrs
    bias = _shape(call.args[3]) if len(call.args) > 3 else None
    sizes = [int(attrs[k]) for k in ("batch", "tokens", "key_tokens", "heads", "head_dim")]
    return schedules.attention(*sizes, _shape(call.args[0])[2], float(attrs["scale"]), bias, cpu)


RULES: dict[str, Lowering] = {
    operators.TO_PANELS: _to_panels,
    operators.FROM_PANELS: _from_panels,
    operators.SPARSE_LINEAR: _sparse_linear,
    operators.LINEAR: _linear,
    operators.LAYER_NORM: _layer_norm,
    operators.ATTENTION: _attention,
}
