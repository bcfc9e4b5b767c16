"""f(n, x), where n is a number => f(n, x), which is fused with no other function

TVM 0.27 cannot fuse such functions in all cases: where the number is a size that also comes with
the shape of a tensor, `FuseTIR` defines it twice. They make small tensors of sizes, or check
indices.

Runs after `relax.transform.AnnotateTIROpPattern`, before functions are fused.
"""

from __future__ import annotations

import tvm
from tvm import tirx

from tvm_sparse.passes.lower.check_divisors import OPAQUE


@tvm.transform.module_pass(opt_level=0, name="KeepNumbersApart")
class KeepNumbersApart:
    """Fuse no functions that take numbers."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod`, whose functions of numbers are opaque."""
        functions = {
            gvar: func.with_attr("op_pattern", OPAQUE) if _takes_a_number(func) else func
            for gvar, func in mod.functions_items()
        }
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _takes_a_number(func: tvm.ir.BaseFunc) -> bool:
    return isinstance(func, tirx.PrimFunc) and not all(
        isinstance(param.ty, tirx.BufferType) for param in func.params
    )
