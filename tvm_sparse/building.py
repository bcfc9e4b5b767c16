"""How TVM turns a module into an executable: its PrimFuncs are compiled in parts, on all cores."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.relax import vm_build

from tvm_sparse.compiling import on_all_cores, one_at_a_time
from tvm_sparse.files import kernel_cache
from tvm_sparse.kernel_objects import compiled, kernel_objects
from tvm_sparse.passes.ir.left_out import without_passes
from tvm_sparse.passes.lower.trust_arguments import TRUSTED
from tvm_sparse.runtime.code import Code, CompiledCode
from tvm_sparse.runtime.linking import can_link
from tvm_sparse.runtime.objects import is_size_limited

COMPACTION = "s_tir.CompactBufferAllocation"
"""TVM's pass that shrinks scratch memory to the part that is accessed; `build` leaves it out.

Our kernels allocate the least that they need, and the default schedules allocate nothing, so the
pass finds nothing. Its search takes most of the compile time of a region of ten operators.
"""

PARTS = 8
"""The most parts of a module, of either kind. Their number does not depend on the cores, so that
any machine makes the same library."""

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
def compile_code(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    machine: str,
    use_cache: bool,
) -> Code:
    """Compile a module that a pipeline for Relax functions has lowered.

    Parameters
    ----------
    mod : IRModule
        The module.
    target : Target
        The processor to compile for.
    machine : str
        The name of its architecture on Linux.
    use_cache : bool
        Whether kernels are looked up in the user's cache, and kept there.

    Returns
    -------
    CompiledCode or tvm.runtime.Module
        A module of TVM where nothing can be linked, and where passes are watched or the sizes of
        files are limited, which object files in memory do not stand.
    """
    with without_passes(COMPACTION):
        scope = tvm.transform.PassContext.current()
        if scope.instruments or is_size_limited() or not can_link(machine):
            return _build_in_parts(mod, target, tvm.transform.Sequential([])).mod
        _, functions = _executable(mod)
        with kernel_cache() if use_cache else contextlib.nullcontext() as cache:
            objects = kernel_objects(parts_of(functions), target, cache)

    def linked(kernels: Sequence[tvm.runtime.Module]) -> tvm.runtime.Module:
        builder, _ = _executable(mod)
        return _link(builder, mod, target, kernels)

    executable = linked([])
    return CompiledCode(executable, objects, linked, machine) if objects else executable


def _build_in_parts(mod: tvm.IRModule, target: tvm.target.Target, relax_pipeline: Any) -> Any:
    """Do what `tvm.relax.build` does, with a library for each part of the PrimFuncs."""
    if isinstance(relax_pipeline, str):
        relax_pipeline = relax.get_pipeline(relax_pipeline)
    with target:
        mod = relax_pipeline(mod)
    builder, functions = _executable(mod)
    scope = tvm.transform.PassContext.current()

    def code_of(part: tvm.IRModule) -> tvm.runtime.Module:
        return compiled(part, target, scope)

    parts = parts_of(functions)
    # What watches the passes of a context was written for one thread.
    libraries = (
        [code_of(part) for part in parts] if scope.instruments else on_all_cores(code_of, parts)
    )
    return relax.VMExecutable(_link(builder, mod, target, libraries))


def _executable(mod: tvm.IRModule) -> tuple[relax.ExecBuilder, tvm.IRModule]:
    """Return the instructions of the Relax functions of a module, and the PrimFuncs left."""
    builder = relax.ExecBuilder()
    return builder, vm_build._vmcodegen(builder, mod)


def _link(
    builder: relax.ExecBuilder,
    mod: tvm.IRModule,
    target: tvm.target.Target,
    libraries: Sequence[tvm.runtime.Module],
) -> tvm.runtime.Module:
    """Return an executable that has the constants of a module and calls libraries."""
    external = list(mod.attrs.get("external_mods", []))
    constants = dict(mod.attrs.get("const_name_to_constant", {}))
    first, *others = libraries or [None]
    return vm_build._ffi_api.VMLink(builder, target, first, [*others, *external], constants)


def parts_of(mod: tvm.IRModule) -> list[tvm.IRModule]:
    """Return the PrimFuncs of a module as modules, which depend on nothing but `mod`.

    Functions that follow one another, which are often alike, come into different parts, and so do
    those whose arguments are checked and those whose arguments are trusted. PrimFuncs of a network
    do not call one another.
    """
    functions = {
        gvar: func for gvar, func in mod.functions_items() if isinstance(func, tvm.tirx.PrimFunc)
    }
    parts = []
    for is_trusted in (False, True):
        alike = [g for g in functions if functions[g].attrs.get(TRUSTED, False) == is_trusted]
        order = sorted(alike, key=lambda gvar: gvar.name_hint)
        count = min(PARTS, -(-len(order) // LEAST_FUNCTIONS))
        parts += [{gvar: functions[gvar] for gvar in order[i::count]} for i in range(count)]
    return [tvm.IRModule(part, attrs=mod.attrs) for part in parts]
