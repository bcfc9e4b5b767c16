"""The parts of a model that ONNX Runtime runs, called by compiled code as a packed function.

The compiled code hands over the ONNX model of a part, a constant of the library. A session is made
for it at its first call, once for each thread: an engine calls from one thread of its own.

A session has threads, which do not exist in the child of a fork, where its destructor would wait
for them without end. So the child leaves the sessions of its parent as they are and makes others.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm_ffi

from tvm_sparse.cpu.threads import pool_threads
from tvm_sparse.errors import InputError, LibraryError
from tvm_sparse.runtime.empty import with_products_as_strides
from tvm_sparse.specs import RUN_SUBMODEL, Fallback

_PROVIDERS = ["CPUExecutionProvider"]
_log = logging.getLogger("tvm_sparse")
_sessions: dict[int, dict[str, _Session]] = {}


def check_available(fallbacks: Sequence[Fallback], where: str) -> None:
    """Refuse a library that needs ONNX Runtime if that is not installed.

    Parameters
    ----------
    fallbacks : sequence of Fallback
        The nodes of the library that ONNX Runtime runs.
    where : str
        The library, for the message.

    Raises
    ------
    LibraryError
        If there are such nodes and no ONNX Runtime.
    """
    if fallbacks and importlib.util.find_spec("onnxruntime") is None:
        raise LibraryError(
            f"{where}: needs ONNX Runtime for {'; '.join(map(str, fallbacks))}: "
            "`pip install onnxruntime`"
        )


class _Session:
    """A session of ONNX Runtime for one part."""

    def __init__(self, content: bytes, threads: int) -> None:
        # Only libraries with such parts need the package.
        from tvm_sparse.onnx_runtime import exact_options, onnxruntime

        options = exact_options()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # A part may have many small loops, such as those of an LSTM: threads spin between them. If
        # they spun after the part, they would take cores from the compiled code behind it.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=_PROVIDERS)
        # ONNX Runtime's errors share no base class below Exception.
        except Exception as error:
            # Where shapes are known, its optimizers decide inner branches, and may then find the
            # types of others inconsistent. It does not look at them without optimizers.
            _log.warning(
                "ONNX Runtime runs its part of the model without optimizations, since it says: %s",
                _first_line(error),
            )
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
            self._session = onnxruntime.InferenceSession(content, options, providers=_PROVIDERS)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = self._session.get_outputs()

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs.

        Raises
        ------
        InputError
            If ONNX Runtime refuses these values, or an output has another shape than the library
            was compiled for.
        """
        try:
            results = self._session.run(None, dict(zip(self._inputs, arrays, strict=True)))
        # ONNX Runtime's errors share no base class below Exception.
        except Exception as error:
            raise InputError(
                f"ONNX Runtime cannot run its part of the model: {_first_line(error)}"
            ) from None
        for value, result in zip(self._outputs, results, strict=True):
            known = value.shape  # empty also if the rank is unknown
            if known and (
                len(known) != len(result.shape)
                or any(
                    isinstance(size, int) and size != found
                    for size, found in zip(known, result.shape, strict=True)
                )
            ):
                raise InputError(
                    f"{value.name!r} has shape {result.shape} for these inputs, and the library "
                    f"was compiled for {tuple(known)}; the shape depends on values"
                )
        return results


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _session(key: str, content: tvm_ffi.Tensor) -> _Session:
    sessions = _sessions.setdefault(threading.get_ident(), {})
    if key not in sessions:
        sessions[key] = _Session(np.from_dlpack(content).tobytes(), pool_threads())
    return sessions[key]


def forget(thread: int) -> None:
    """Drop the sessions of the thread of this number, which calls no more."""
    _sessions.pop(thread, None)


def _leave_sessions() -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(dict(_sessions)))
    _sessions.clear()


os.register_at_fork(after_in_child=_leave_sessions)


def _run(key: str, content: tvm_ffi.Tensor, *inputs: tvm_ffi.Tensor) -> Any:
    results = _session(key, content).run([np.from_dlpack(tensor) for tensor in inputs])
    arrays = (np.require(result, requirements=["C", "W"]) for result in results)
    tensors = [tvm_ffi.from_dlpack(with_products_as_strides(array)) for array in arrays]
    return tensors[0] if len(tensors) == 1 else tensors


# The virtual machine looks the function up when a library is loaded.
tvm_ffi.register_global_func(RUN_SUBMODEL, _run, override=True)
# So it comes out of compiled code as the same error.
tvm_ffi.register_error("InputError", InputError)
