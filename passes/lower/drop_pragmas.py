"""DropPragmas: { pragma; body } => { body }

TVM's library marks the loops of ScatterND for GPUs. The code generator of CPUs prints a warning for
each such mark, and ignores it.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx


@tvm.transform.module_pass(opt_level=0, name="DropPragmas")
class DropPragmas:
    """Drop the marks in PrimFuncs that mean nothing on CPUs."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without pragmas of scopes."""
        functions = {
            gvar: tvm_ffi.structural_map(func, (tirx.AttrStmt, _without))
            if isinstance(func, tirx.PrimFunc)
            else func
            for gvar, func in mod.functions_items()
        }
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _without(statement: tirx.AttrStmt) -> tirx.Stmt:
    return statement.body if statement.attr_key == "pragma_scope" else statement
