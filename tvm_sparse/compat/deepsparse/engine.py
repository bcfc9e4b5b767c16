"""DeepSparse's `Engine`: lists of arrays go in and come out, in the order of the ONNX file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

import tvm_sparse
from tvm_sparse import compiler
from tvm_sparse.bench.arrays import random_inputs
from tvm_sparse.compat.deepsparse.batches import joined, split
from tvm_sparse.compat.deepsparse.errors import InputValueError
from tvm_sparse.compat.deepsparse.models import (
    Shapes,
    example_arrays,
    fits,
    input_shapes,
    model_to_path,
    set_shapes,
    with_shapes,
)
from tvm_sparse.compat.deepsparse.properties import EngineProperties
from tvm_sparse.compat.deepsparse.results import BenchmarkResults
from tvm_sparse.compat.deepsparse.scheduler import Scheduler, shares
from tvm_sparse.cpu.threads import share_of_cores
from tvm_sparse.errors import InputError
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.runtime import library

Arrays = list[np.ndarray]


class Engine(EngineProperties):
    """A compiled model.

    Parameters
    ----------
    model : str or PathLike
        An ONNX file, a folder with a ``model.onnx``, or a library that was compiled before.
    batch_size : int, optional
        The first dimension of all inputs, in place of the model's own; None or a number below 1
        keeps that. The user's file is only read.
    num_cores : int, optional
        Cores that all requests together run on; by default all that this process may use.
    num_streams : int, optional
        Requests that run at once, each on its share of the cores; by default one for the scheduler
        ``single_stream``, else one a core.
    scheduler : Scheduler or str, optional
        How requests are treated that come at the same time.
    input_shapes : sequence of sequence of int, optional
        A shape for each input in the order of the model; one alone is that of all inputs.
    cached_outputs : sequence of bool, optional
        Must be None: models with a cache of keys and values get and return it like other arrays.
    options : object
        Further arguments of `tvm_sparse.compile`, such as ``precision="auto"``.

    Raises
    ------
    ModelError, InputError
        As `tvm_sparse.compile` raises them.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        batch_size: int | None = 1,
        num_cores: int | None = None,
        num_streams: int | None = None,
        scheduler: Scheduler | str | None = None,
        input_shapes: Shapes | None = None,
        cached_outputs: Sequence[bool] | None = None,
        **options: Any,
    ) -> None:
        if cached_outputs is not None and any(cached_outputs):
            raise InputError(
                "cached_outputs: the engine keeps no cache of its own; leave it out, and pass the "
                "cache as inputs and outputs"
            )
        self._path = model_to_path(model)
        self._scheduler, self._cores, streams = shares(num_cores, num_streams, scheduler)
        self._threads = None if num_cores is None else share_of_cores(self._cores, streams)
        self._examples: dict[str, np.ndarray] = {}
        self._nodes = 0
        if library.is_library(Path(self._path)):
            self._engine = tvm_sparse.load(self._path, self._threads, streams)
        else:
            self._engine = self._compile(batch_size, input_shapes, streams, options)
        fixed = batch_size is not None and batch_size > 0
        self._batch_size = batch_size if fixed else None
        first = self.input_shapes[0] if self.input_shapes else ()
        if fixed and first and first[0] != batch_size:
            raise InputError(
                f"{self._path}: compiled for a batch of {first[0]}, and batch_size is {batch_size}"
            )

    def _compile(
        self,
        batch_size: int | None,
        shapes: Shapes | None,
        streams: int,
        options: Mapping[str, Any],
    ) -> tvm_sparse.Engine:
        model, _ = read_model(self._path)
        self._nodes = len(model.graph.node)
        bound = input_shapes(model, batch_size, shapes)
        threads = self._threads
        if fits(model, bound):
            engine = compiler.compile(
                self._path, bound, threads=threads, streams=streams, **options
            )
        else:
            with with_shapes(self._path, batch_size, shapes) as copy:
                engine = compiler.compile(copy, threads=threads, streams=streams, **options)
        set_shapes(model, bound)
        self._examples = example_arrays(model)
        return engine

    def __call__(self, inp: Sequence[np.ndarray], val_inp: bool = True) -> Arrays:
        """Run a batch; see `run`."""
        return self.run(inp, val_inp)

    def run(self, inp: Sequence[np.ndarray], val_inp: bool = True) -> Arrays:
        """Run a batch.

        Parameters
        ----------
        inp : list of array
            All inputs in the order of the model.
        val_inp : bool
            Whether the inputs must be a list of C-contiguous arrays of the batch's size. Shapes and
            dtypes are checked in any case.

        Returns
        -------
        list of numpy.ndarray
            All outputs in the order of the model.

        Raises
        ------
        ValueError
            If an input is none that the engine takes.
        """
        return list(self.mapped_run(inp, val_inp).values())

    def mapped_run(self, inp: Sequence[np.ndarray], val_inp: bool = True) -> dict[str, np.ndarray]:
        """Run a batch as `run` does, and return the outputs by name."""
        if val_inp:
            self._check(inp)
        try:
            return self._engine.run(inp)
        except InputError as error:
            raise InputValueError(str(error)) from error

    def timed_run(self, inp: Sequence[np.ndarray], val_inp: bool = False) -> tuple[Arrays, float]:
        """Run a batch as `run` does, and return the outputs and the seconds it took."""
        if val_inp:
            self._check(inp)
        start = time.perf_counter()
        outputs = self.run(inp, val_inp=False)
        return outputs, time.perf_counter() - start

    def batched_run(self, inp: Sequence[np.ndarray]) -> Arrays:
        """Run any number of items, in batches of the engine's size.

        The last batch is filled up with zeros; the outputs have as many items as the inputs.
        """
        if not self.input_shapes or not self.input_shapes[0]:
            raise InputValueError("batched_run: the model has no batch dimension")
        with_batches = split(inp, self.input_shapes[0][0])
        return joined([self.run(part) for part in with_batches], len(inp[0]))

    def generate_random_inputs(self) -> Arrays:
        """Return inputs of the right shapes and dtypes, with random values that fit the model."""
        examples = self._examples or random_inputs(self._engine.inputs)
        return [examples[name] for name in self.input_names]

    def benchmark(
        self,
        inp: Sequence[np.ndarray],
        num_iterations: int = 20,
        num_warmup_iterations: int = 5,
        include_inputs: bool = False,
        include_outputs: bool = False,
        show_progress: bool = False,
    ) -> BenchmarkResults:
        """Run one batch several times, and return the time of each run."""
        batches = [inp] * num_iterations
        return self._time(
            batches, num_warmup_iterations, include_inputs, include_outputs, show_progress
        )

    def benchmark_loader(
        self,
        loader: Iterable[Sequence[np.ndarray]],
        num_iterations: int = 20,
        num_warmup_iterations: int = 5,
        include_inputs: bool = False,
        include_outputs: bool = False,
        show_progress: bool = False,
    ) -> BenchmarkResults:
        """Run batches of a loader in turn, `num_iterations` of them, and return their times."""
        loaded = list(loader)
        batches = [loaded[i % len(loaded)] for i in range(num_iterations)]
        return self._time(
            batches, num_warmup_iterations, include_inputs, include_outputs, show_progress
        )

    def _time(
        self,
        batches: Sequence[Sequence[np.ndarray]],
        num_warmup_iterations: int,
        include_inputs: bool,
        include_outputs: bool,
        show_progress: bool,
    ) -> BenchmarkResults:
        for i in range(num_warmup_iterations):
            self.run(batches[i % len(batches)])
        results = BenchmarkResults()
        for batch in track(batches, "benchmark", disable=not show_progress):
            start = time.perf_counter()
            outputs = self.run(batch)
            results.append_batch(
                start,
                time.perf_counter(),
                batch[0].shape[0] if batch and batch[0].ndim else 1,
                list(batch) if include_inputs else None,
                outputs if include_outputs else None,
            )
        return results

    def _check(self, inp: Sequence[np.ndarray]) -> None:
        if not isinstance(inp, list):
            raise InputValueError(
                f"inp must be a list of arrays in the order {self.input_names}, got "
                f"{type(inp).__name__}"
            )
        for name, array in zip(self.input_names, inp, strict=False):
            if not isinstance(array, np.ndarray):
                raise InputValueError(f"input {name!r}: not an array, but {type(array).__name__}")
            if self._batch_size and (not array.ndim or array.shape[0] != self._batch_size):
                raise InputValueError(
                    f"input {name!r}: shape {array.shape} is none of batch_size "
                    f"{self._batch_size}; `batched_run` takes any number of items"
                )
            if not array.flags.c_contiguous:
                raise InputValueError(
                    f"input {name!r}: not C-contiguous; give numpy.ascontiguousarray of it"
                )


def compile_model(
    model: str | os.PathLike[str],
    batch_size: int | None = 1,
    num_cores: int | None = None,
    num_streams: int | None = None,
    scheduler: Scheduler | str | None = None,
    input_shapes: Shapes | None = None,
    cached_outputs: Sequence[bool] | None = None,
) -> Engine:
    """Return an `Engine`, which has the same parameters."""
    return Engine(
        model, batch_size, num_cores, num_streams, scheduler, input_shapes, cached_outputs
    )
