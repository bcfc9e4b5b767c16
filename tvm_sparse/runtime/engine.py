"""The engine: runs a compiled model on NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_sparse.cpu import threads as counts
from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.errors import ClosedError, InputError, TargetError
from tvm_sparse.runtime import library
from tvm_sparse.runtime.arrays import Inputs, in_order, to_arrays, to_tensor
from tvm_sparse.runtime.code import Code, runnable
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.runtime.loaded import LibraryFile, LoadedLibrary
from tvm_sparse.runtime.machine import STARTING, Machine
from tvm_sparse.runtime.packing import Sentences, run_packed
from tvm_sparse.runtime.pickling import reduced
from tvm_sparse.runtime.running import CLOSED, RUNNING
from tvm_sparse.runtime.session import Session
from tvm_sparse.runtime.weights import by_function
from tvm_sparse.specs import Sizes, TensorSpec

if TYPE_CHECKING:
    import tvm

    from tvm_sparse.compile_report import CompileReport


class Engine:
    """A compiled model.

    `tvm_sparse.compile` and `tvm_sparse.load` make engines. Several threads may call one; at most
    `streams` calls run at once, and others queue up. It works after a fork, in the parent and in
    the child; a fork waits for the calls that run. In a ``with`` block an engine is closed at the
    end.

    An engine can be pickled, with the whole library. For many processes on one machine, paths that
    each gives to `tvm_sparse.load` are cheaper: the system keeps one copy of the file in memory.

    Attributes
    ----------
    info : LibraryInfo
        What the library says about itself.
    threads : int
        Number of threads that an inference runs on.
    streams : int
        Number of inferences that may run at once.
    report : CompileReport or None
        What became of the layers when the model was compiled; None for a library that was loaded.
    sources : iterable of Path
        The files of the model that was compiled, which `save` does not replace.
    """

    sources: Iterable[Path] = ()

    def __init__(
        self,
        code: Code,
        info: LibraryInfo,
        threads: int | None = None,
        report: CompileReport | None = None,
        streams: int = 1,
        weights: Sequence[tvm.runtime.Tensor] = (),
    ) -> None:
        counts.check_threads(threads)
        counts.check_streams(streams)
        self.info = info
        share = counts.share_of_cores(usable_cores(), streams)
        self.threads = threads or min(info.threads or share, share)
        self.streams = streams
        self.report = report
        self._code: Code | None = code
        self._weights = weights
        self._machine: Machine | None = None

    def __repr__(self) -> str:
        inputs, outputs = (
            ", ".join(map(str, specs)) for specs in (self.info.inputs, self.info.outputs)
        )
        streams = "" if self.streams == 1 else f"{self.streams} streams of "
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        return f"Engine({inputs} -> {outputs}; {self.info.cpu}, {streams}{threads})"

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:  # type: ignore[override]
        return reduced(self, protocol)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes and dtypes of the inputs, in the order of the model."""
        return self.info.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Names, shapes and dtypes of the outputs, in the order of the model."""
        return self.info.outputs

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run the library."""
        try:
            library.check_machine(self.info)
        except TargetError:
            return False
        return True

    def __call__(self, *arrays: Any, **named: Any) -> dict[str, np.ndarray]:
        """Run one inference on arrays in the order of the model, or by name; see `run`."""
        return self.run(arrays or None, **named)

    def run(self, inputs: Inputs = None, /, **named: Any) -> dict[str, np.ndarray]:
        """Run one inference.

        Parameters
        ----------
        inputs : mapping of str to array, sequence of array, or array
            Every input by name, all inputs in the order of the model, or the only input.
        **named : array
            Every input by name, instead.

        Returns
        -------
        dict of str to numpy.ndarray
            Every output by name. The arrays are the caller's to keep and to change.

        Raises
        ------
        InputError
            If an input is missing, unknown, or of another shape or dtype, if a named dimension is
            out of bounds or has two sizes, or if its values are none
            that the model can take, such as an index out of range or an integer divisor of zero.
            Or the system does not give the engine its threads.
        RunError
            If the model cannot be run to its end, such as for want of memory.
        TargetError
            If the model was compiled for another machine.
        ClosedError
            If the engine is closed.
        """
        arrays = self._checked(inputs, named)
        with RUNNING:
            tensors = [to_tensor(array) for array in arrays]
            result = self.usable_machine().run(tensors)
        return to_arrays(result, self.info, arrays, tensors)

    def run_packed(self, sentences: Sentences) -> list[dict[str, np.ndarray]]:
        """Run sentences of different lengths in one inference, without work for padding.

        Parameters
        ----------
        sentences : list of array, list of dict of array, or dict of list of array
            The arrays ``(tokens,)`` of each sentence for every input, or for the only one; a mask
            may be left out.

        Returns
        -------
        list of dict of str to numpy.ndarray
            The outputs of each sentence: ``(tokens, ...)``, or ``(...)`` of a whole sentence.

        Raises
        ------
        InputError
            If the library computes padded tokens (`padding`), or arrays do not fit.
        """
        return run_packed(self.info, self.run, sentences)

    def submit(self, inputs: Inputs = None, /, **named: Any) -> Future[dict[str, np.ndarray]]:
        """Start an inference in the background.

        At most `streams` inferences run at once; others wait. The arrays must not change meanwhile.

        Parameters
        ----------
        inputs, **named
            As for `run`.

        Returns
        -------
        concurrent.futures.Future
            Its result is that of `run`, or the error that `run` would raise for values.

        Raises
        ------
        InputError, TargetError, ClosedError
            As `run` raises them, for what is known before the inference.
        """
        arrays = self._checked(inputs, named)
        with RUNNING:
            machine = self.usable_machine()
            tensors = [to_tensor(array) for array in arrays]

            def infer() -> dict[str, np.ndarray]:
                with RUNNING:
                    result = machine.call(tensors)
                return to_arrays(result, self.info, arrays, tensors)

            return machine.submit(infer)

    @property
    def is_decoder(self) -> bool:
        """Whether the model is a decoder, a language model that has sessions."""
        return self.info.decoder is not None

    def session(self, tokens: int | None = None) -> Session:
        """Begin a sequence of tokens; several sessions share the weights of the engine.

        Parameters
        ----------
        tokens : int, optional
            The most tokens of the sequence; by default 4096, or what the model has tables for.

        Raises
        ------
        InputError
            If the model is no decoder, or does not take as many tokens.
        """
        return Session(self, tokens)

    def _checked(self, inputs: Inputs, named: Mapping[str, Any]) -> list[np.ndarray]:
        if self.is_decoder:
            raise InputError("the model is a decoder: call engine.session(tokens=...).step(ids)")
        sizes = Sizes(self.info.bounds, self.info.multiples)
        return [
            spec.check(value, sizes)
            for spec, value in zip(self.inputs, in_order(self.inputs, inputs, named), strict=True)
        ]

    def save(self, path: str | os.PathLike[str], linker: str = "auto") -> None:
        """Write the library, with weights; loading it needs no original model.

        Parameters
        ----------
        path : str or PathLike
            The file to write. An existing file is replaced at once, by a whole library or not at
            all.
        linker : str
            ``"gcc"`` is the system's compiler for the target, ``"zig"`` comes with the Python
            package ziglang, and ``"auto"`` is the first of them that is installed.

        Raises
        ------
        LibraryError
            If the file cannot be written, or no linker for the target is installed.
        """
        code = self.open_code()
        if isinstance(code, LibraryFile):
            library.copy_library(code, Path(path))
        else:
            from tvm_sparse.runtime.writing import write_library  # with the rest of TVM

            write_library(code, Path(path), self.info, linker, self.sources, self._weights)

    def close(self) -> None:
        """Wait for the calls that run, end the threads and free the memory.

        Later calls of `run` and `save` raise `ClosedError`. An engine that nothing refers to any
        more closes by itself. Closing one twice does nothing.
        """
        with STARTING:
            machine, self._machine, self._code = self._machine, None, None
            self._weights = ()
        if machine is not None:
            machine.close()

    def usable_machine(self) -> Machine:
        """Return the machine of this process, which is made if there is none; for sessions."""
        machine = self._machine
        return machine if machine and machine.is_of_this_process else self._start()

    def _start(self) -> Machine:
        """Return the machine of this process, which the first caller makes."""
        with STARTING:
            if self._machine is None or not self._machine.is_of_this_process:
                code = self.open_code()
                library.check_machine(self.info)
                counts.check_startable(self.threads * self.streams)
                tensors = code.weights if isinstance(code, LoadedLibrary) else self._weights
                grows = self.info.has_sizes and not self.info.has_blocks
                sizes = self.threads, self.streams, grows
                weights = by_function(self.info.weights, tensors)
                falls_back = bool(self.info.fallbacks)
                self._machine = Machine(runnable(code), *sizes, weights, has_fallbacks=falls_back)
            return self._machine

    def open_code(self) -> Code:
        """Return the code of an engine that is not closed."""
        code = self._code
        if code is None:
            raise ClosedError(CLOSED)
        return code
