"""Finds the operators that keep TVM's lowering because their sizes are known at run time only."""

from __future__ import annotations

from collections.abc import Iterator

import tvm
from tvm import relax

from tvm_sparse.passes.ir.operators.operator import PREFIX
from tvm_sparse.passes.ir.shapes import extents_of, is_symbolic

NAMED = 3
"""The most calls of one operator that are named; the others are counted."""

HEAVY = frozenset(
    f"relax.{name}"
    for name in (
        *("matmul", "nn.conv1d", "nn.conv2d", "nn.conv3d", "nn.conv1d_transpose"),
        *("nn.conv2d_transpose", "nn.attention", "nn.attention_bias", "nn.softmax"),
        *("nn.layer_norm", "nn.rms_norm", "nn.group_norm", "nn.instance_norm"),
        *("nn.max_pool2d", "nn.avg_pool2d", "nn.adaptive_avg_pool2d", "image.resize2d"),
    )
)
"""The operators that our kernels compute, or would be needed for, with static sizes."""


def kept_by_tvm(mod: tvm.IRModule) -> str:
    """Return one sentence that names the heavy operators with sizes of run time, or "".

    Parameters
    ----------
    mod : tvm.IRModule
        A module in which the operators that can be are on panels.
    """
    found: dict[str, list[str]] = {}
    for binding in _bindings(mod):
        call = binding.value
        if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
            continue
        if call.op.name in HEAVY and any(map(_is_sized, (call, *call.args))):
            name = call.op.name.removeprefix("relax.").removeprefix(PREFIX)
            names = found.setdefault(name, [])
            if str(binding.var.name) not in names:  # several functions may compute the same
                names.append(str(binding.var.name))
    if not found:
        return ""
    listed = "; ".join(f"{len(names)} {name} ({_some(names)})" for name, names in found.items())
    return (
        f"operators with sizes that are known at run time only keep TVM's lowering, which is "
        f"slower than our kernels for fixed sizes: {listed}"
    )


def _bindings(mod: tvm.IRModule) -> Iterator[relax.VarBinding]:
    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            for block in func.body.blocks:
                for binding in block.bindings:
                    if isinstance(binding, relax.VarBinding):
                        yield binding


def _is_sized(value: relax.Expr) -> bool:
    if not isinstance(value.ty, relax.TensorType):
        return False
    shape = extents_of(value)
    return shape is None or is_symbolic(shape)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
