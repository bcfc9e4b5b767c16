"""LowerOperators: our operators => call_tir of scheduled PrimFuncs

Every operator is lowered by the schedule of its name in `tvm_sparse.schedules`, for the CPU that
the module is compiled for. Layers of one shape share one PrimFunc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.formats import SparseConvTiling, SparseTiling
from tvm_sparse.passes import operators
from tvm_sparse.passes.operators import Layout, static_shape
from tvm_sparse.schedules.epilogue import Epilogue
from tvm_sparse.targets import CpuProfile

Kernel = Callable[[relax.Call, CpuProfile], tvm.tirx.PrimFunc]


@tvm.transform.module_pass(opt_level=0, name="LowerOperators")
class LowerOperators:
    """Lower the operators of `tvm_sparse.passes.operators`; all others stay as they are."""

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


def _epilogue(call: relax.Call) -> Epilogue:
    attrs = call.attrs
    return Epilogue(bool(attrs["bias"]), bool(attrs["residual"]), str(attrs["activation"]) or None)


def _to_panels(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.to_panels(*_batched(_shape(call.args[0])), int(call.attrs["lanes"]), cpu)


def _from_panels(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.from_panels(*_batched(_shape(call)), _shape(call.args[0])[2], cpu)


def _sparse_linear(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    rows, k, lanes = _shape(call.args[0])
    tiling = SparseTiling(**{name: int(v) for name, v in call.attrs["tiling"].items()})
    n = int(call.attrs["channels"])
    return schedules.sparse_linear(rows, lanes, n, k, tiling, _epilogue(call), cpu)


def _sparse_conv2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    fields: dict[str, Any] = {name: int(v) for name, v in call.attrs["tiling"].items()}
    tiling = SparseConvTiling(**{**fields, "shifted": bool(fields["shifted"])})
    return schedules.sparse_conv2d(operators.conv_of(call), tiling, _epilogue(call), cpu)


def _conv2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.conv2d(operators.conv_of(call), _epilogue(call), cpu)


def _depthwise_conv2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.depthwise_conv2d(operators.conv_of(call), _epilogue(call), cpu)


def _linear(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    rows, k, lanes = _shape(call.args[0])
    return schedules.linear(rows, lanes, int(call.attrs["channels"]), k, _epilogue(call), cpu)


def _layer_norm(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    rows, channels, lanes = _shape(call.args[0])
    return schedules.layer_norm(rows, channels, lanes, float(call.attrs["epsilon"]), cpu)


def _attention(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    attrs = call.attrs
    return schedules.attention(
        batch=int(attrs["batch"]),
        tokens=int(attrs["tokens"]),
        key_tokens=int(attrs["key_tokens"]),
        heads=int(attrs["heads"]),
        head_dim=int(attrs["head_dim"]),
        lanes=_shape(call.args[0])[2],
        scale=float(attrs["scale"]),
        bias_shape=_shape(call.args[3]) if len(call.args) > 3 else None,
        cpu=cpu,
    )


def _image_to_panels(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    batch, channels, height, width = _shape(call.args[0])
    lanes = int(call.attrs["lanes"])
    return schedules.image_to_panels(batch, channels, height, width, lanes, cpu)


def _panels_to_image(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    batch, channels, height, width = _shape(call)
    return schedules.panels_to_image(batch, channels, height, width, _shape(call.args[0])[2], cpu)


def _max_pool2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.max_pool2d(operators.pool_of(call), cpu)


def _avg_pool2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.avg_pool2d(operators.pool_of(call), cpu)


def _global_pool2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    batch, channels, height, width = (int(extent) for extent in call.attrs["shape"])
    lanes = (_shape(call.args[0])[2], int(call.attrs["lanes"]))
    is_max = call.op.name == operators.GLOBAL_MAX_POOL2D
    build = schedules.global_max_pool2d if is_max else schedules.global_avg_pool2d
    return build((batch, channels, height, width), *lanes, cpu)


def _upsample2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    batch, channels, height, width = (int(extent) for extent in call.attrs["shape"])
    vertical, horizontal = (int(factor) for factor in call.attrs["factors"])
    lanes = (_shape(call.args[0])[2], int(call.attrs["lanes"]))
    factors = (vertical, horizontal)
    return schedules.upsample2d(batch, channels, height, width, factors, *lanes, cpu)


def _bilinear2d(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    return schedules.bilinear2d(operators.resize_of(call), cpu)


KERNELS: dict[str, Kernel] = {
    operators.TO_PANELS: _to_panels,
    operators.FROM_PANELS: _from_panels,
    operators.SPARSE_LINEAR: _sparse_linear,
    operators.LINEAR: _linear,
    operators.SPARSE_CONV2D: _sparse_conv2d,
    operators.CONV2D: _conv2d,
    operators.DEPTHWISE_CONV2D: _depthwise_conv2d,
    operators.LAYER_NORM: _layer_norm,
    operators.ATTENTION: _attention,
    operators.IMAGE_TO_PANELS: _image_to_panels,
    operators.PANELS_TO_IMAGE: _panels_to_image,
    operators.MAX_POOL2D: _max_pool2d,
    operators.AVG_POOL2D: _avg_pool2d,
    operators.GLOBAL_AVG_POOL2D: _global_pool2d,
    operators.GLOBAL_MAX_POOL2D: _global_pool2d,
    operators.UPSAMPLE2D: _upsample2d,
    operators.BILINEAR2D: _bilinear2d,
}
