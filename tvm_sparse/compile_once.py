"""Compiles one model as it is, for `tvm_sparse.compile`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import tvm

from tvm_sparse.compile_report import CompileReport
from tvm_sparse.compiling import COMPILING
from tvm_sparse.cpu.precision import needed_sets
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.errors import PLEASE_REPORT, CompilationError, ModelError, border
from tvm_sparse.frontends.load import import_module
from tvm_sparse.lifting import lift_weights
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.runtime.weights import Weights
from tvm_sparse.runtime.writing import describe
from tvm_sparse.specs import allowed, check_sizes


def compile_once(
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Mapping[str, Sequence[int]] | None,
    distrusted: Mapping[str, str],
    *,
    pipeline: Callable[..., tvm.transform.Pass],
    cpu: CpuProfile,
    threads: int | None,
    streams: int,
    no_fallback: str,
    hints: Sequence[Mapping[str, int]],
    bounds: Mapping[str, int],
    named: Mapping[str, Sequence[int | str]] | None,
    use_cache: bool,
    strict: bool = False,
    explain: Callable[[CompileReport], CompileReport] = lambda report: report,
    not_compiled: str = "",
) -> Engine:
    """Compile a model as it is; `explain` completes the report.

    If `not_compiled` says why it cannot be, the library hands all of it to ONNX Runtime.
    """
    from tvm_sparse.building import compile_code
    from tvm_sparse.passes.canonicalize.recompose_quantized import is_quantized
    from tvm_sparse.passes.padding.drop_padding import OUTPUTS

    name, tvm_target = "the module" if isinstance(model, tvm.IRModule) else model, cpu.to_target()
    with COMPILING:
        imported = import_module(model, shapes, no_fallback, distrusted, named, not_compiled)
        for option, sizes in (("bounds=", bounds), *(("hints=", sizes) for sizes in hints)):
            check_sizes(option, sizes, imported.inputs)
        info = LibraryInfo(
            inputs=imported.inputs,
            outputs=imported.outputs,
            constant_outputs=imported.constant_outputs(),
            cpu=cpu.mcpu,
            machine=cpu.architecture,
            instruction_sets=needed_sets(cpu, is_quantized=is_quantized(imported.mod)),
            fallbacks=imported.fallbacks,
            precision=cpu.activations,
            bounds=allowed(bounds, imported.bounds),
            multiples=imported.multiples,
            has_blocks=True,
        )
        mod = imported.mod.with_attr(OUTPUTS, [spec.name for spec in info.outputs])
        del imported  # frees each weight as soon as a packed one replaces it
        reports: list[CompileReport] = []
        passes = pipeline(report=reports.append, strict=strict)
        try:
            with border(CompilationError, f"{name} cannot be compiled", PLEASE_REPORT), tvm_target:
                mod, weights, read_by = lift_weights(passes(mod))
                placed = Weights.of(weights, read_by)
                mask, cores = reports[0].packed_mask, reports[0].threads
                info = replace(info, weights=placed, mask=mask, threads=cores)
                code = compile_code(describe(mod, info), tvm_target, info.machine, use_cache)
        except ModelError as error:
            if reports and reports[0].refusal:
                raise ModelError(f"{name}: {reports[0].refusal}") from error
            if strict and reports and reports[0].warnings:
                raise ModelError("; ".join(reports[0].warnings)) from error
            raise
        report = explain(*reports)
        report.log()
    engine = Engine(code, info, threads, report, streams, weights)
    if not isinstance(model, tvm.IRModule):
        from tvm_sparse.frontends.model_files import ModelFiles

        engine.sources = ModelFiles(Path(model))
    return engine
