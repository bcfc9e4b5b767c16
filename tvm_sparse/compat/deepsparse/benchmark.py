"""DeepSparse's benchmark of one model: items a second, and milliseconds of a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvm_sparse.compat.deepsparse.engine import Engine
from tvm_sparse.compat.deepsparse.errors import InputValueError
from tvm_sparse.compat.deepsparse.measuring import run_for, statistics_of
from tvm_sparse.compat.deepsparse.other_engines import OURS, open_engine, sequence_shapes
from tvm_sparse.compat.deepsparse.results import BatchBenchmarkResult, BenchmarkResults
from tvm_sparse.compat.deepsparse.scheduler import Scheduler
from tvm_sparse.compat.deepsparse.utils import parse_input_shapes
from tvm_sparse.errors import InputError
from tvm_sparse.version import __version__

__all__ = ["BatchBenchmarkResult", "BenchmarkResults", "benchmark_model", "result_lines"]

_SCENARIOS = {"singlestream": "sync", "multistream": "async", "elastic": "elastic"}


def benchmark_model(
    model_path: str | os.PathLike[str],
    batch_size: int = 1,
    input_shapes: str = "",
    num_cores: int | None = None,
    scenario: str = "sync",
    time: float = 10,
    warmup_time: float = 2,
    num_streams: int | None = None,
    sequence_length: int | None = None,
    input_ids_length: int = 1,
    thread_pinning: str = "core",
    engine: str = OURS,
    internal_kv_cache: bool = True,
    quiet: bool = False,
    export_path: str | os.PathLike[str] | None = None,
    disable_kv_cache_overrides: bool = False,
    num_kv_cache_tokens: int = 1,
    *,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Measure how fast an engine runs a model on random inputs.

    Parameters
    ----------
    model_path : str or PathLike
        An ONNX file, a folder with a ``model.onnx``, or a compiled library.
    batch_size : int
        The first dimension of all inputs.
    input_shapes : str
        Shapes of the inputs, such as ``"[1,3,224,224]"``.
    num_cores : int, optional
        Cores that all requests together run on.
    scenario : str
        ``"sync"``: one request after the other. ``"async"`` and ``"elastic"``: several at once.
    time, warmup_time : float
        Seconds that are measured, and those before.
    num_streams : int, optional
        Requests at once; by default one for ``"sync"``, else one a core.
    sequence_length : int, optional
        The second dimension of all inputs of two dimensions, such as the ids of tokens.
    thread_pinning : str
        ``"none"``, ``"core"`` or ``"numa"``. Threads may move between all cores in any case.
    engine : str
        ``"tvm-sparse"``, ``"onnxruntime"``, or ``"file.py:Class"`` of a class like `Engine`.
        ``"deepsparse"`` is this package.
    quiet : bool
        Without effect here: the command line prints.
    export_path : str or PathLike, optional
        A JSON file for the result.
    input_ids_length, internal_kv_cache, disable_kv_cache_overrides, num_kv_cache_tokens
        For models with a cache of keys and values, which has no special treatment here: they must
        have their defaults.
    options : mapping, optional
        Further arguments of `tvm_sparse.compile`.
    progress : callable
        Called with a line of text before each step.

    Returns
    -------
    dict
        As ``deepsparse.benchmark -x`` writes it. Times are milliseconds of a batch.

    Raises
    ------
    ModelError, InputError
        If the model cannot be read, or an argument does not fit.
    """
    if (input_ids_length, internal_kv_cache, disable_kv_cache_overrides, num_kv_cache_tokens) != (
        1, True, False, 1
    ):  # fmt: skip
        raise InputError(
            "input_ids_length, internal_kv_cache, disable_kv_cache_overrides and "
            "num_kv_cache_tokens: caches of keys and values have no special treatment here; leave "
            "these arguments out"
        )
    if thread_pinning not in ("none", "core", "numa"):
        raise InputValueError(
            f"unknown thread_pinning {thread_pinning!r}: it is one of none, core, numa"
        )
    for name, seconds in (("time", time), ("warmup_time", warmup_time)):
        if not 0 <= seconds < 1e6:
            raise InputValueError(f"{name} must be seconds from 0 on, got {seconds}")
    scheduler = Scheduler.from_str(_SCENARIOS.get(scenario, scenario))
    shapes = parse_input_shapes(input_shapes)
    if sequence_length is not None:
        shapes = sequence_shapes(model_path, batch_size, shapes, sequence_length)
    progress("loading")
    opened = open_engine(
        engine, model_path, batch_size, num_cores, num_streams, scheduler, shapes, options or {}
    )
    if isinstance(opened, Engine):
        progress(str(opened))
    inputs = opened.generate_random_inputs()
    streams = 1 if scheduler is Scheduler.single_stream else opened.num_streams
    kind = "singlestream" if scheduler is Scheduler.single_stream else "multistream"
    if scheduler is Scheduler.elastic:
        kind = "elastic"
    progress(f"Starting '{kind}' performance measurements for {time:g} seconds")
    run_for(lambda: opened.run(inputs), warmup_time, streams)
    batches, elapsed = run_for(lambda: opened.run(inputs), time, streams)
    extra = {} if sequence_length is None else {
        "sequence_length": sequence_length, "input_ids_length": input_ids_length
    }  # fmt: skip
    result = {
        "engine": OURS if engine == "deepsparse" else engine,
        "version": __version__,
        "orig_model_path": os.fspath(model_path),
        "model_path": opened.model_path,
        "batch_size": batch_size,
        "input_shapes": shapes,
        "num_cores": opened.num_cores,
        "scenario": _SCENARIOS[kind],
        "scheduler": str(scheduler),
        "seconds_to_run": time,
        "num_streams": streams,
        "fraction_of_supported_ops": getattr(opened, "fraction_of_supported_ops", None),
        **extra,
        "benchmark_result": {"scenario": kind, **statistics_of(batches, elapsed, batch_size)},
    }
    if export_path is not None:
        from tvm_sparse import files

        files.write_json(Path(export_path), result, [Path(os.fspath(model_path))])
    return result


def result_lines(result: Mapping[str, Any]) -> list[str]:
    """Return what DeepSparse prints of a result."""
    found = result["benchmark_result"]
    return [
        f"Original Model Path: {result['orig_model_path']}",
        f"Batch Size: {result['batch_size']}",
        f"Scenario: {result['scenario']}",
        f"Throughput (items/sec): {found['items_per_sec']:.4f}",
        f"Latency Mean (ms/batch): {found['mean']:.4f}",
        f"Latency Median (ms/batch): {found['median']:.4f}",
        f"Latency Std (ms/batch): {found['std']:.4f}",
        f"Iterations: {found['iterations']}",
    ]
