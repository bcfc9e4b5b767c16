"""PrimFuncs become object files, which a cache on disk keeps for the next compilation.

The key of an object file is a digest of all that it depends on: the functions as TVM serializes
them, the target, the settings of the pass context, and the version and the files of TVM.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Sequence

import tvm
from tvm import libinfo
from tvm.target import codegen

from tvm_sparse.compiling import on_all_cores
from tvm_sparse.files import Cache
from tvm_sparse.passes.ir.left_out import without_assertions
from tvm_sparse.passes.lower.trust_arguments import TRUSTED
from tvm_sparse.passes.lower.vectorize_math import VECTORIZABLE
from tvm_sparse.runtime.objects import written


def kernel_objects(
    parts: Sequence[tvm.IRModule], target: tvm.target.Target, cache: Cache | None
) -> list[bytes]:
    """Return an object file for each module of PrimFuncs, compiled on all cores.

    Parameters
    ----------
    parts : sequence of IRModule
        The modules; nothing but their functions counts.
    target : Target
        The processor to compile for.
    cache : Cache or None
        Where object files are looked up and kept.
    """
    scope = tvm.transform.PassContext.current()
    compiler = json.dumps([_compiler(), str(target), scope.opt_level, _settings(scope)])

    def kernel_object(part: tvm.IRModule) -> bytes:
        functions = tvm.IRModule(dict(part.functions_items()))
        if cache is None:
            return written(compiled(functions, target, scope))
        text = tvm.ir.save_json(functions)
        key = hashlib.sha256(f"{compiler}\n{text}".encode()).hexdigest()
        found = cache.get(key)
        if found is None:
            found = written(compiled(functions, target, scope))
            cache.put(key, found)
        return found

    return on_all_cores(kernel_object, parts)


def compiled(
    part: tvm.IRModule, target: tvm.target.Target, scope: tvm.transform.PassContext
) -> tvm.runtime.Module:
    """Return the code of some PrimFuncs, without checks of arguments if all of them are trusted."""
    is_trusted = all(func.attrs.get(TRUSTED, False) for func in part.functions.values())
    with scope, without_assertions() if is_trusted else contextlib.nullcontext():
        return tvm.tirx.build(part, target)


def _settings(scope: tvm.transform.PassContext) -> list[str]:
    """Return what changes the passes of TVM."""
    config = sorted(f"{name}={value}" for name, value in scope.config.items())
    return [*config, *map(str, scope.disabled_pass), "", *map(str, scope.required_pass)]


@functools.cache
def _compiler() -> list[object]:
    """Return what tells this build of TVM, with LLVM inside and what we add to it, from others."""
    files = sorted(file for folder in libinfo.package_lib_paths() for file in folder.glob("*.so"))
    status = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [tvm.__version__, codegen.llvm_version_major(), status, VECTORIZABLE]
