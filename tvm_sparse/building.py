"""Compiles modules with TVM, but for one of its passes that takes long and finds nothing here."""

from __future__ import annotations

from typing import Any

import tvm

COMPACTION = "s_tir.CompactBufferAllocation"
"""Cuts scratch memory down to what is accessed. That of our kernels is as small as can be, and
default schedules have none; in a region of ten operators the search took nine tenths of the time
to compile it."""


def build(mod: tvm.IRModule, target: tvm.target.Target, relax_pipeline: Any = "default") -> Any:
    """Compile a module in the pass context in scope.

    Parameters
    ----------
    mod : IRModule
        Relax functions, and PrimFuncs that they call.
    target : Target
        For which processor.
    relax_pipeline : str or Pass
        As `tvm.compile`; a module of PrimFuncs needs none.

    Returns
    -------
    Executable
    """
    scope = tvm.transform.PassContext.current()
    context = tvm.transform.PassContext(
        opt_level=scope.opt_level,
        required_pass=scope.required_pass,
        disabled_pass=[*scope.disabled_pass, COMPACTION],
        instruments=scope.instruments,
        config=scope.config,
    )
    with context:
        return tvm.compile(mod, target, relax_pipeline=relax_pipeline)
