"""How TVM turns a module into an executable: its PrimFuncs are compiled in parts, on all cores."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax import vm_build

from tvm_sparse.compiling import on_all_cores, one_at_a_time
from tvm_sparse.passes.ir.left_out import without_passes

COMPACTION = "s_tir.CompactBufferAllocation"
"""TVM's pass that shrinks scratch memory to the part that is accessed; `build` leaves it out.

Our kernels allocate the least that they need, and the default schedules allocate nothing, so the
pass finds nothing. Its search takes most of the compile time of a region of ten operators.
"""

PARTS = 8
"""The most parts of a module. Their number does not depend on the cores, so that any machine makes
the same library."""

LEAST_FUNCTIONS = 3
"""The least PrimFuncs of a part. A part by itself takes TVM about 15 ms, and LLVM compiles most
functions in 30 ms and more."""


@one_at_a_time
def build(mod: tvm.IRModule, target: tvm.target.Target, relax_pipeline: Any = "default") -> Any:
    """Compile a module by TVM, in the pass context in scope, without the pass `COMPACTION`.

    Parameters
    ----------
    mod : IRModule
        Relax functions, and PrimFuncs that they call.
    target : Target
        The processor to compile for.
    relax_pipeline : str or Pass
        The pipeline for Relax functions, as `tvm.compile` takes it; PrimFuncs need none.

    Returns
    -------
    Executable
    """
    with without_passes(COMPACTION):
        if not any(isinstance(func, relax.Function) for func in mod.functions.values()):
            return tvm.compile(mod, target)
        return _build_in_parts(mod, target, relax_pipeline)


@one_at_a_time
def build_lowered(mod: tvm.IRModule, target: tvm.target.Target) -> Any:
    """Compile a module that a pipeline for Relax functions has lowered, as `build` does."""
    with without_passes(COMPACTION):
        return _build_in_parts(mod, target, tvm.transform.Sequential([]))


def _build_in_parts(mod: tvm.IRModule, target: tvm.target.Target, relax_pipeline: Any) -> Any:
    """Do what `tvm.relax.build` does, with a library for each part of the PrimFuncs."""
    if isinstance(relax_pipeline, str):
        relax_pipeline = relax.get_pipeline(relax_pipeline)
    with target:
        mod = relax_pipeline(mod)
    external = list(mod.attrs.get("external_mods", []))
    constants = dict(mod.attrs.get("const_name_to_constant", {}))
    builder = relax.ExecBuilder()
    mod = vm_build._vmcodegen(builder, mod)
    scope = tvm.transform.PassContext.current()

    def compiled(part: tvm.IRModule) -> tvm.runtime.Module:
        with scope:  # a context is in scope of one thread
            return tvm.tirx.build(part, target)

    parts = parts_of(mod)
    # What watches the passes of a context was written for one thread.
    libraries = (
        [compiled(part) for part in parts] if scope.instruments else on_all_cores(compiled, parts)
    )
    first = libraries.pop(0) if libraries else None
    linked = vm_build._ffi_api.VMLink(builder, target, first, [*libraries, *external], constants)
    return relax.VMExecutable(linked)


def parts_of(mod: tvm.IRModule) -> list[tvm.IRModule]:
    """Return the PrimFuncs of a module as modules, which depend on nothing but `mod`.

    Functions that follow one another, which are often alike, come into different parts. PrimFuncs
    of a network do not call one another.
    """
    functions = {
        gvar: func for gvar, func in mod.functions_items() if isinstance(func, tvm.tirx.PrimFunc)
    }
    order = sorted(functions, key=lambda gvar: gvar.name_hint)
    count = min(PARTS, -(-len(order) // LEAST_FUNCTIONS))
    parts = [{gvar: functions[gvar] for gvar in order[i::count]} for i in range(count)]
    return [tvm.IRModule(part, attrs=mod.attrs) for part in parts]
