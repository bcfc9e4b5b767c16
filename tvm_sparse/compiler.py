"""The functions that users call: compile a model, and load a library."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import tvm

from tvm_sparse.columns.options import ColumnRows, OverlapOption, check_column_options
from tvm_sparse.compile_apart import compile_apart
from tvm_sparse.compile_decoder import check_decoder_options, compile_decoder, is_decoder
from tvm_sparse.compile_once import compile_once
from tvm_sparse.cpu.precision import PrecisionOption, processor
from tvm_sparse.cpu.profile import profile
from tvm_sparse.cpu.threads import check_streams, check_threads, share_of_cores
from tvm_sparse.dtypes import DType
from tvm_sparse.errors import CompilationError, InputError, ModelError, NotLifted
from tvm_sparse.frontends.in_memory import is_in_memory, on_disk
from tvm_sparse.frontends.load import names_in, no_fallback
from tvm_sparse.frontends.pytorch import import_torch, is_module
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.runtime.loading import load
from tvm_sparse.specs import (
    CacheOption,
    FallbackOption,
    Hints,
    PaddingOption,
    allowed,
    check_cache,
    check_padding,
    each_hint,
)

if TYPE_CHECKING:
    import onnx
    import torch

    from tvm_sparse.verification.verify import Verification

__all__ = ["compile", "load", "verify_engine"]

_log = logging.getLogger("tvm_sparse")

# The passes are imported when something is compiled: a machine that only loads needs none.


def compile(
    model: str
    | os.PathLike[str]
    | bytes
    | onnx.ModelProto
    | tvm.IRModule
    | torch.nn.Module
    | torch.export.ExportedProgram,
    shapes: Mapping[str, Sequence[int | str]] | Any | None = None,
    target: str = "native",
    threads: int | None = None,
    columns: ColumnRows = "auto",
    overlap: OverlapOption = "auto",
    records: str | os.PathLike[str] | RecordedPlans | None = None,
    strict: bool = False,
    verify: bool = False,
    fallback: FallbackOption = "onnxruntime",
    distrusted: Mapping[str, str] | None = None,
    precision: PrecisionOption = "float32",
    calibration: Mapping[str, Any] | None = None,
    streams: int = 1,
    limit_time: float | None = None,
    limit_memory: float | None = None,
    hints: Hints | None = None,
    bounds: Mapping[str, int] | None = None,
    cache: CacheOption = "auto",
    padding: PaddingOption = "auto",
    kernel_cache: bool = True,
) -> Engine:
    """Compile a model for a CPU.

    Threads that compile at the same time wait for one another.

    Parameters
    ----------
    model : str, PathLike, bytes, onnx.ModelProto, tvm.IRModule, torch.nn.Module or ExportedProgram
        An ONNX file, or its content; a GGUF file or a folder in Hugging Face's layout of a language
        model; a Relax module whose function ``main`` has its weights as constants, and whose inputs
        may have variables as sizes; or a module of PyTorch in evaluation mode, or what
        ``torch.export`` made of one, in which dimensions may be dynamic.
    shapes : mapping of str to sequence of int or str, optional
        Shapes of the ONNX inputs that have dynamic dimensions; a string names a dimension that each
        inference chooses. ``{"batch": 1}`` gives a dimension its size by its name in the file.
        Without them, dynamic dimensions keep the names that the file gives. For a module of
        PyTorch, a tuple or a dict of tensors: example inputs.
    target : str
        The name of a CPU profile; ``"native"`` is this machine. Suffixes add or take away what
        half precision uses: ``"x86-64-v4+fp16"``, ``"sapphirerapids-amx"``.
    threads : int, optional
        Threads that an inference runs on. By default one for a small network, whose callers then
        compute their calls themselves, and otherwise all cores that this process may use.
    columns : "auto", "off" or int
        Whether operators are grouped into regions that run as tensor columns; a number is the rows
        of a column.
    overlap : str
        How rows are treated that two steps of a column need: ``"recompute"`` computes them again,
        ``"carry"`` keeps them, and with ``"auto"`` the cost model chooses.
    records : str, PathLike or RecordedPlans, optional
        What `tvm_sparse.tuning.tune.tune` found for this target and number of threads; it takes
        the place of the cost model's plans. By default the file in the user's data folder, if
        there is one; ``RecordedPlans()`` holds nothing.
    strict : bool
        Whether a pruned layer without a sparse kernel is an error. Otherwise the logger
        ``tvm_sparse`` gets a warning.
    verify : bool
        Whether the outputs are compared with those of ONNX Runtime, as by `verify_engine` and, by
        default, on the command line. It takes an inference of both.
    fallback : str
        What becomes of nodes that cannot be compiled: with ``"onnxruntime"``, ONNX Runtime runs
        them inside of the library, which then needs this package and Python; ``"off"`` makes them
        an error, and so does a target of another architecture.
    distrusted : mapping of str to str, optional
        Names of nodes that ONNX Runtime shall run though they can be compiled, and why.
    precision : str
        What activations are computed in: ``"float32"``, ``"float16"``, or with ``"auto"`` the
        fastest that the target has. Inputs and outputs stay as they are. With float16, a matrix
        unit may multiply dense layers in bfloat16, and layers that leave its range stay in float32.
    calibration : mapping of str to array, optional
        Every input of an ONNX file by name, on which values are measured for float16 and outputs
        are verified. By default, random inputs that fit the graph.
    streams : int
        Inferences that may run at once. By default, an inference gets its share of the cores as
        threads.
    limit_time, limit_memory : float, optional
        The seconds that compiling an ONNX file may take, and the GB (1e9 bytes) that it may have
        for data. With either, another process compiles, which also bears a crash of the compiler.
    hints : mapping of str to int or sequence of int, optional
        Sizes to plan for, by the names of open dimensions: by default 1 for the first one, else 64.
        Of several sizes each gets a plan of its own, over the same weights; the first one decides
        how these are packed.
    bounds : mapping of str to int, optional
        The largest sizes that the engine accepts, by the same names.
    cache : str
        What a decoder keeps of past tokens: ``"float32"`` or ``"float16"``; ``"auto"`` is float16
        for weights of few bits, and otherwise the type of the file.
    padding : str
        What becomes of tokens that an attention mask leaves out. ``"drop"`` computes them no more:
        sentences are packed one after another, and outputs have zeros for padded tokens.
        ``"keep"`` computes them. ``"auto"`` drops them of models with open dimensions none of
        whose outputs has an axis of tokens, such as the vectors of sentences.
    kernel_cache : bool
        Whether compiled kernels are kept in the user's folder for caches, and taken from there.
        What they compute is the same.

    Returns
    -------
    Engine
        Runs the model if `target` fits this machine; its `save` writes the library, which
        runs on the target. Its `report` says what became of every layer, and why.

    Raises
    ------
    ModelError
        If the model cannot be read or imported, if it is compiled `strict` and has a pruned layer
        without a sparse kernel, or if its padding shall be dropped and results depend on it.
    InputError
        If `shapes`, `hints` or `bounds` do not fit the model, `threads` or `streams` is below 1, or
        `columns`, `overlap`, `fallback`, `precision`, `cache` or `padding` has another value.
    TargetError
        If `target` is unknown, or `precision` is float16 and the target has no arithmetic for it.
    RecordsError
        If the file `records` cannot be read.
    VerificationError
        If `verify` is set, and an output differs from ONNX Runtime's.
    LimitError
        If a limit is exceeded, or the process that has limits crashes.
    """
    if is_module(model):
        (model, limits), shapes = import_torch(model, shapes), None
        bounds = allowed(bounds or {}, limits)
    options: dict[str, Any] = {
        "target": target, "threads": threads, "columns": columns, "overlap": overlap,
        "records": records, "fallback": fallback, "precision": precision,
        "calibration": calibration, "streams": streams, "hints": hints, "bounds": bounds,
        "cache": cache, "padding": padding, "kernel_cache": kernel_cache,
    }  # fmt: skip
    if is_in_memory(model):
        options |= {"limit_time": limit_time, "limit_memory": limit_memory}
        with on_disk(model) as path:
            return compile(
                path, shapes, strict=strict, verify=verify, distrusted=distrusted, **options
            )
    if not isinstance(model, str | os.PathLike | tvm.IRModule):
        raise ModelError(
            "a model is the path of a file, its content, an onnx.ModelProto, a Relax module or a "
            f"module of PyTorch; got {type(model).__name__}"
        )
    model = cast("str | os.PathLike[str] | tvm.IRModule", model)
    if limit_time is not None or limit_memory is not None:
        whole = {"model": model, "shapes": shapes, "strict": strict, "verify": verify}
        whole["distrusted"] = distrusted
        return compile_apart({**whole, **options}, limit_time, limit_memory)
    if verify:
        if isinstance(model, tvm.IRModule):
            raise InputError("verify= is for ONNX files: ONNX Runtime cannot run a Relax module")
        from tvm_sparse.verification import verify as verification

        def attempt(found: Mapping[str, str], used: PrecisionOption) -> Engine:
            chosen = {**options, "precision": used, "distrusted": {**(distrusted or {}), **found}}
            engine = compile(model, shapes, strict=strict, **chosen)
            plain: dict[str, Any] = {"hints": None, "bounds": None, "padding": "keep"}
            part: Callable[..., Engine] = functools.partial(compile, **{**chosen, **plain})
            verify_engine(model, engine, calibration, part)
            return engine

        return verification.until_right(attempt, fallback == "onnxruntime", precision)
    from tvm_sparse.passes import pipeline

    check_threads(threads)
    check_streams(streams)
    if threads is None and streams > 1:
        threads = share_of_cores(profile(target).cores, streams)
    check_column_options(columns, overlap)
    check_cache(cache)
    check_padding(padding)
    if not isinstance(records, RecordedPlans):
        records = RecordedPlans.read(None if records is None else Path(records))
    cpu = processor(target, threads, precision)
    if is_decoder(model, shapes):
        sizes = {"hints": hints, "bounds": bounds, "padding": padding == "drop"}
        check_decoder_options(precision, calibration, sizes)
        passes = functools.partial(pipeline.pipeline, columns, overlap, records.known_on(cpu))
        return compile_decoder(model, passes, cpu, threads, streams, strict, cache, kernel_cache)
    named, fixed = names_in(model, shapes), cast(Any, shapes)
    refusal = no_fallback(cpu.architecture, fallback)
    passes = functools.partial(pipeline.pipeline, columns, overlap, records.known_on(cpu))
    passes = functools.partial(passes, precision=precision, hints=hints, padding=padding)
    passes = functools.partial(passes, fewer_threads=threads is None)
    once = functools.partial(
        compile_once, pipeline=passes, cpu=cpu, threads=threads, streams=streams, named=named,
        no_fallback=refusal, hints=each_hint(hints or {}), bounds=bounds or {},
        use_cache=kernel_cache,
    )  # fmt: skip
    if cpu.activations is DType.FLOAT16:
        from tvm_sparse.verification.calibration import calibration_for

        calibrated = calibration_for(cpu, model, shapes, hints, calibration)
        passes = functools.partial(passes, keep_float32=calibrated.keep_float32)
        once = functools.partial(once, pipeline=passes, explain=calibrated.explain)
    if isinstance(model, tvm.IRModule):
        return once(model, fixed, {}, strict=strict)
    if named:
        return _for_all_sizes(model, functools.partial(once, strict=strict), refusal)
    from tvm_sparse.frontends.failures import until_compiled  # needs onnx, as loading does not

    strictly = functools.partial(once, strict=strict)
    return until_compiled(model, fixed, strictly, once, refusal, distrusted)


def _for_all_sizes(
    model: str | os.PathLike[str], once: Callable[..., Engine], refusal: str
) -> Engine:
    """Compile a model whose sizes stay open; ONNX Runtime runs it if that is not possible."""
    try:
        return once(model, None, {})
    except (NotLifted, CompilationError) as error:
        if refusal or isinstance(error.__cause__, MemoryError):
            raise
        reason = str(error)
        try:
            engine = once(model, None, {}, not_compiled=reason)
        except ModelError:
            cause = error.__cause__  # what is wrong with the model itself
            raise cause if isinstance(cause, ModelError) else error from None
    _log.warning("ONNX Runtime runs the whole model, for any sizes: %s", reason)
    return engine


def verify_engine(
    model: str | os.PathLike[str],
    engine: Engine,
    inputs: Mapping[str, Any] | None = None,
    compile_part: Callable[[Path], Engine] | None = None,
) -> Verification:
    """Compare the outputs of a compiled model with those of ONNX Runtime without optimizations.

    Parameters
    ----------
    model : str or PathLike
        The ONNX file that `engine` was compiled from.
    engine : Engine
        The compiled model; it must run on this machine.
    inputs : mapping of str to array, optional
        Every input by name. By default, inputs are made that fit the graph.
    compile_part : callable, optional
        Compiles an ONNX file with the options of `engine`. If the outputs differ, parts of the
        model are compiled by it to find the node that is wrong. By default, the options are those
        of `compile`, with the threads and the precision of the engine.

    Returns
    -------
    Verification
        How far each output is from ONNX Runtime's.

    Raises
    ------
    VerificationError
        If an output differs by more than rounding; the message names the node.
    InputError
        If `inputs` do not fit, or the library was compiled from another model.
    ModelError
        If the model cannot be read.
    TargetError
        If the engine was compiled for another machine.
    """
    from tvm_sparse.verification import verify

    return verify.verify(model, engine, compile_part or like(engine), inputs)


def like(engine: Engine) -> Callable[[Path], Engine]:
    """Return a function that compiles an ONNX file with the threads and precision of an engine."""
    return functools.partial(
        compile, threads=engine.threads, precision=engine.info.precision, padding="keep"
    )
