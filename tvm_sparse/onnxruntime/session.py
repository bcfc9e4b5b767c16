"""A session of ONNX Runtime that runs compiled code: one library for all sizes, or one each."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tvm_sparse
from tvm_sparse.errors import InputError, TvmSparseError, reason
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.onnxruntime.cache import compiled_library, open_shapes

SHAPES = "tvm_sparse.shapes"
"""The entry of the session's configuration with the number of sets of shapes to compile."""

CACHE = "tvm_sparse.cache"
"""The entry of the session's configuration with a folder for libraries; empty for none."""

CACHE_VARIABLE = "TVM_SPARSE_CACHE"
"""The environment variable that takes its place where it is not set."""

PRECISION = "tvm_sparse.precision"
"""The entry with the precision, as `tvm_sparse.compile` takes it."""

_MOST_SHAPES = 8

_log = logging.getLogger("tvm_sparse")

Original = onnxruntime.InferenceSession
Shapes = tuple[tuple[int, ...], ...]


class InferenceSession(onnxruntime.InferenceSession):
    """A session whose `run` calls compiled code.

    It is a session of ONNX Runtime in all else: it has the same arguments, attributes and methods,
    and holds the model in ONNX Runtime, too, which runs what is not compiled.

    The first call compiles the model, which takes seconds: a file with dynamic dimensions for all
    their sizes, planned for those of this call. Where kernels need sizes that are known, the first
    call with inputs of new shapes compiles the model for them, for up to 8 sets of shapes; others
    run in ONNX Runtime, after one warning. Entries of the session's configuration, which
    ``sess_options.add_session_config_entry`` sets, say otherwise: ``"tvm_sparse.shapes"`` is the
    number of sets of shapes, each of which then has a library of its own, ``"tvm_sparse.cache"`` a
    folder in which libraries are kept for the next process (or the environment variable
    ``TVM_SPARSE_CACHE``), and ``"tvm_sparse.precision"`` the precision.

    Parameters
    ----------
    path_or_bytes : str, PathLike or bytes
        An ONNX file. A model in memory, and one in ONNX Runtime's own format, runs in ONNX Runtime,
        after a warning.
    sess_options : onnxruntime.SessionOptions, optional
        Its ``intra_op_num_threads`` are the threads of an inference; 0 means all usable cores.
    providers, provider_options, **others
        As for ONNX Runtime. If they name another device than the CPU, nothing is compiled.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a session; for a module of this package, one of ONNX Runtime itself."""
        # A library of ours may leave nodes to ONNX Runtime, which must not come back to us.
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith("tvm_sparse."):
            return Original(*args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[Any, Any]] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(path_or_bytes, sess_options, providers, provider_options, **others)
        self._lock = threading.Lock()
        self._engines: dict[Shapes, tvm_sparse.Engine | None] = {}
        self._open: tvm_sparse.Engine | None = None
        self._options = sess_options
        self._refusal = self._why_not(path_or_bytes)
        if self._refusal:
            _log.warning("ONNX Runtime runs the model, since %s", self._refusal)
        else:
            self._path = Path(os.fspath(path_or_bytes))  # type: ignore[arg-type]

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[Any]:
        """Run an inference.

        Parameters
        ----------
        output_names : sequence of str or None
            The outputs to return, in this order; None or an empty one means all.
        input_feed : mapping of str to array
            Every input by name.
        run_options : onnxruntime.RunOptions, optional
            With it, ONNX Runtime runs the inference.

        Returns
        -------
        list of numpy.ndarray
            The outputs.
        """
        engine = None if run_options is not None else self._engine_for(input_feed)
        if engine is None:
            return list(super().run(output_names, input_feed, run_options))
        try:
            outputs = engine.run(dict(input_feed))
        except InputError:
            # ONNX Runtime's own errors say best what is wrong with the sizes of a call.
            return list(super().run(output_names, input_feed, run_options))
        try:
            return [outputs[name] for name in output_names or outputs]
        except KeyError as error:
            names = ", ".join(outputs)
            raise InputError(f"unknown output {error}: the model's outputs are {names}") from None

    def _why_not(self, model: object) -> str:
        if not isinstance(model, str | os.PathLike):
            return "it is in memory: give the path of its file"
        if not os.fspath(model).endswith(".onnx"):
            return f"{os.fspath(model)} is no .onnx file"
        others = [name for name in self.get_providers() if name != "CPUExecutionProvider"]
        return f"it was asked to use {', '.join(others)}" if others else ""

    def _engine_for(self, feed: Mapping[str, Any]) -> tvm_sparse.Engine | None:
        """Return the engine for the shapes of inputs; None if ONNX Runtime is to run them."""
        if self._refusal:
            return None
        names = [value.name for value in self.get_inputs()]
        # ONNX Runtime's own errors say best what is wrong with a call.
        if set(feed) != set(names) or not all(isinstance(feed[n], np.ndarray) for n in names):
            return None
        if self._open is not None:
            return self._open
        shapes = tuple(tuple(feed[name].shape) for name in names)
        if shapes not in self._engines:
            with self._lock:
                if shapes not in self._engines:
                    self._engines[shapes] = self._compile(dict(zip(names, shapes, strict=True)))
        return self._engines[shapes]

    def _compile(self, shapes: dict[str, tuple[int, ...]]) -> tvm_sparse.Engine | None:
        if not self._engines and not self._entry(SHAPES):
            self._open = self._for_all_sizes(shapes)
        if self._open is not None:  # it may be that of another thread
            return self._open
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        if len(self._engines) >= int(self._entry(SHAPES) or _MOST_SHAPES):
            if len(self._engines) == int(self._entry(SHAPES) or _MOST_SHAPES):
                _log.warning(
                    "%s: compiled for %d sets of shapes; ONNX Runtime runs others, such as %s; pad "
                    "inputs to few shapes, or set the session's entry %r to more",
                    self._path, len(self._engines), shown, SHAPES,
                )  # fmt: skip
            return None
        try:
            return compiled_library(self._path, shapes, **self._settings())
        except TvmSparseError as error:
            _log.warning(
                "%s: ONNX Runtime runs inputs %s, since they cannot be compiled: %s",
                self._path, shown, reason(error),
            )  # fmt: skip
            return None

    def _for_all_sizes(self, shapes: dict[str, tuple[int, ...]]) -> tvm_sparse.Engine | None:
        """Return an engine for all sizes, planned for `shapes`; None if each needs its own."""
        try:
            named = open_shapes(self._path)
            if named is None:
                return None
            sizes = {
                size: given
                for name, shape in named.items()
                for size, given in zip(shape, shapes[name], strict=False)
                if isinstance(size, str)
            }
            return compiled_library(self._path, named, **self._settings(), hints=sizes)
        except TvmSparseError as error:
            _log.warning("%s: each set of shapes gets a library: %s", self._path, reason(error))
            return None

    def _settings(self) -> dict[str, Any]:
        threads = self._options.intra_op_num_threads if self._options is not None else 0
        return {
            "threads": threads or None,
            "precision": self._entry(PRECISION) or "float32",
            "cache": self._entry(CACHE) or os.environ.get(CACHE_VARIABLE, ""),
        }

    def _entry(self, name: str) -> str:
        """Return an entry of the session's configuration, empty if there is none."""
        if self._options is None:
            return ""
        try:
            return str(self._options.get_session_config_entry(name))
        except RuntimeError:  # ONNX Runtime's word for an entry that is not set
            return ""
