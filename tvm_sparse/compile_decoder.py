"""Compiles a decoder: one library with a function for each number of tokens of a call."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import tvm

from tvm_sparse.building import compile_code
from tvm_sparse.compile_report import CompileReport
from tvm_sparse.compiling import COMPILING
from tvm_sparse.cpu.precision import needed_sets, resolve
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.errors import PLEASE_REPORT, CompilationError, InputError, ModelError, border
from tvm_sparse.lifting import lift_weights
from tvm_sparse.merging import Merged
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.runtime.weights import Weights
from tvm_sparse.runtime.writing import describe
from tvm_sparse.specs import MEASURED_BY_GENERATE, CacheOption

_log = logging.getLogger("tvm_sparse")


def is_decoder(model: object, shapes: object) -> bool:
    """Return whether a model is a decoder that `compile_decoder` compiles.

    A decoder with `shapes` is compiled like other models: without state, for a number of past
    tokens.

    Raises
    ------
    ModelError
        If the model is a file that cannot be read.
    """
    if shapes or not isinstance(model, str | os.PathLike):
        return False
    from tvm_sparse.frontends.decoders.decoder import is_decoder

    return is_decoder(model)


def refuse_decoder(model: object, shapes: object) -> None:
    """Refuse a decoder where the time of an inference is measured.

    Raises
    ------
    InputError
        If the model is one, and has no `shapes`.
    """
    if is_decoder(model, shapes):
        raise InputError(MEASURED_BY_GENERATE)


def check_decoder_options(
    precision: str, calibration: object, others: Mapping[str, object]
) -> None:
    """Refuse what a decoder does not take.

    Raises
    ------
    InputError
        If there is a calibration, or any of `others`, which are options of `compile` by name.
    """
    for option, given in (*others.items(), ("calibration", calibration)):
        if given:
            raise InputError(f"{option}= is not for decoders; sessions take tokens one by one")
    if precision == "float16":
        _log.warning("the model is computed in float32: decoders have no kernels in float16")


def compile_decoder(
    model: str | os.PathLike[str],
    pipeline: Callable[..., tvm.transform.Pass],
    cpu: CpuProfile,
    threads: int | None,
    streams: int,
    strict: bool,
    cache: CacheOption = "auto",
    kernel_cache: bool = True,
) -> Engine:
    """Compile a decoder.

    Parameters
    ----------
    model : str or PathLike
        The ONNX file.
    pipeline : callable
        Returns the passes; `report` and `strict` are its last arguments.
    cpu : CpuProfile
        The processor.
    threads, streams, strict, cache, kernel_cache
        As `tvm_sparse.compile` takes them.

    Raises
    ------
    ModelError
        If the file has something that is not supported, or a pruned layer without a sparse kernel
        is compiled `strict`.
    """
    # They need onnx, which a machine that only loads libraries may not have.
    from tvm_sparse.frontends.decoders.decoder import DecoderFile
    from tvm_sparse.frontends.model_files import ModelFiles
    from tvm_sparse.passes.sparsify.pack_block_weights import packing_once

    cpu = resolve("float32", cpu)
    with COMPILING:
        file = DecoderFile.read(model, cache)
        info = LibraryInfo(
            inputs=file.inputs,
            outputs=file.outputs,
            constant_outputs=(),
            cpu=cpu.mcpu,
            machine=cpu.architecture,
            instruction_sets=needed_sets(cpu),
            threads=cpu.cores,
            precision=cpu.activations,
            decoder=file.decoder,
        )
        target, merged = cpu.to_target(), Merged()
        reports: list[CompileReport] = []
        passes = pipeline(report=reports.append, strict=strict)
        try:
            with border(CompilationError, f"{model} cannot be compiled", PLEASE_REPORT), target:
                with packing_once():
                    for name, mod in file.modules():
                        merged.add(name, passes(mod))
                lifted, weights, read_by = lift_weights(merged.module())
                info = replace(info, weights=Weights.of(weights, read_by))
                described = describe(lifted, info)
                code = compile_code(described, target, info.machine, kernel_cache)
        except ModelError as error:
            if strict and reports and reports[-1].warnings:
                raise ModelError("; ".join(reports[-1].warnings)) from error
            raise
        report = reports[0]
        report.log()
        known = set(report.warnings)
        for warning in dict.fromkeys(text for other in reports[1:] for text in other.warnings):
            if warning not in known:
                _log.warning("in calls of several tokens: %s", warning)
    engine = Engine(code, info, threads, report, streams, weights)
    engine.sources = ModelFiles(Path(model))
    return engine
