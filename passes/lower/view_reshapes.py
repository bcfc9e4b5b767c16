"""v = call_tir(reshape, y) => v = R.reshape(y)        inside of dataflow blocks

TVM's `RewriteDataflowReshape` does it, but it fails where a kernel indexes an array with an extent
such as ``n + 4``. Here, such kernels are no reshapes.

Runs before kernels are scheduled: a reshape is known by its loops.
"""

from __future__ import annotations

import tvm
from tvm import relax, s_tir, tirx

from tvm_sparse.passes.ir.shapes import sizes_of


@tvm.transform.module_pass(opt_level=0, name="ViewReshapes")
class ViewReshapes:
    """Let what is reshaped inside of a dataflow block be a view."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with reshapes instead of copies."""
        rewrite = relax.transform.RewriteDataflowReshape()
        hidden = _unreadable(mod) if sizes_of(mod) else {}
        if not hidden:
            return rewrite(mod)
        visible = tvm.IRModule(mod.functions, attrs=mod.attrs)
        for gvar, func in hidden.items():
            visible[gvar] = func.with_body(_NOTHING)
        rewritten = rewrite(visible)
        for gvar, func in hidden.items():
            rewritten[gvar] = func
        return rewritten


def _unreadable(mod: tvm.IRModule) -> dict[tvm.ir.GlobalVar, tirx.PrimFunc]:
    """Return the kernels of which TVM cannot tell whether they are reshapes."""
    return {
        gvar: func
        for gvar, func in mod.functions_items()
        if isinstance(func, tirx.PrimFunc) and reshapes(func) is None
    }


def reshapes(kernel: tirx.PrimFunc) -> bool | None:
    """Return whether a kernel copies an array in order; None if TVM cannot tell."""
    try:
        return bool(relax.analysis.has_reshape_pattern(kernel))
    except tvm.error.InternalError:
        return None


_NOTHING = s_tir.SBlockRealize(
    [], True, s_tir.SBlock([], [], [], "root", tirx.Evaluate(tirx.IntImm("int32", 0)))
)
