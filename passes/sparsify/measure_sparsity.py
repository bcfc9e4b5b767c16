"""MeasureSparsity: write down how dense every constant weight is.

The module attribute ``tvm_sparse.weights`` has one entry for each `matmul` or `conv2d` with a
constant weight, in program order: ``{"layer", "operator", "shape", "density"}``. Nothing else
changes.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvm_sparse.formats.sparse import density_of
from tvm_sparse.passes.ir.expressions import is_call_to

WEIGHTS = "tvm_sparse.weights"


@tvm.transform.module_pass(opt_level=0, name="MeasureSparsity")
class MeasureSparsity:
    """Annotate the module with the density of its constant weights."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with the attribute ``tvm_sparse.weights``."""
        found: list[dict[str, Any]] = []
        for _, func in mod.functions_items():
            if isinstance(func, relax.Function):
                found.extend(_measure(func))
        return mod.with_attr(WEIGHTS, found)


def _measure(func: relax.Function) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for block in func.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not is_call_to(call, "relax.matmul", "relax.nn.conv2d"):
                continue
            weight = call.args[1]
            if isinstance(weight, tvm.ir.GenericConst):
                values = weight.value.numpy()
                found.append(
                    {
                        "layer": binding.var.name,
                        "operator": call.op.name.removeprefix("relax."),
                        "shape": list(values.shape),
                        "density": density_of(values),
                    }
                )
    return found
