"""The engine: runs a compiled model on NumPy arrays.

A TVM virtual machine must not be used by two threads at once, and TVM gives every thread that
runs one a pool of its own. So each engine has one thread that owns its virtual machine: calls
from several Python threads queue up there, and no more than `threads` threads ever compute.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.cpu.threads import check_threads, start_pool
from tvm_sparse.errors import InputError, TargetError
from tvm_sparse.runtime import library
from tvm_sparse.runtime.library import LibraryInfo
from tvm_sparse.specs import TensorSpec, unknown_input

if TYPE_CHECKING:
    from tvm_sparse.compile_report import CompileReport


class Engine:
    """A compiled model.

    `tvm_sparse.compile` and `tvm_sparse.load` make engines. Several threads may call one.

    Attributes
    ----------
    info : LibraryInfo
        What the library says about itself.
    threads : int
        Number of threads that an inference runs on.
    report : CompileReport or None
        What became of the layers when the model was compiled; None for a library that was loaded.
    """

    def __init__(
        self,
        module: tvm.runtime.Module,
        info: LibraryInfo,
        threads: int | None = None,
        path: Path | None = None,
        report: CompileReport | None = None,
    ) -> None:
        check_threads(threads)
        self.info = info
        self.threads = threads or usable_cores()
        self.report = report
        self._module = module
        self._path = path  # of the library that `module` was loaded from
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        inputs, outputs = (
            ", ".join(map(str, specs)) for specs in (self.info.inputs, self.info.outputs)
        )
        return f"Engine({inputs} -> {outputs}; {self.info.cpu}, {self.threads} threads)"

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

    def run(self, inputs: Mapping[str, Any] | Sequence[Any]) -> dict[str, np.ndarray]:
        """Run one inference.

        Parameters
        ----------
        inputs : mapping of str to array, or sequence of array
            Every input by name, or all inputs in the order of the model.

        Returns
        -------
        dict of str to numpy.ndarray
            Every output by name. The arrays are the caller's to keep and to change.

        Raises
        ------
        InputError
            If an input is missing, unknown, or of another shape or dtype, or if it makes the model
            divide an integer by zero.
        TargetError
            If the model was compiled for another machine.
        """
        arrays = [
            spec.check(value)
            for spec, value in zip(self.inputs, self._in_order(inputs), strict=True)
        ]
        result = self._call([_to_tensor(array) for array in arrays])
        tensors = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        taken = list(arrays)
        outputs: dict[str, np.ndarray] = {}
        for spec, tensor in zip(self.outputs, tensors, strict=True):
            array = _to_array(tensor)
            # An output may be a view of an input, of another output or of a weight.
            if spec.name in self.info.constant_outputs or any(
                np.may_share_memory(array, other) for other in taken
            ):
                array = array.copy()
            taken.append(array)
            outputs[spec.name] = array
        return outputs

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
        if self._path is None:
            library.write_library(self._module, Path(path), self.info.machine, linker)
        else:
            library.copy_library(self._path, Path(path))

    def _in_order(self, inputs: Mapping[str, Any] | Sequence[Any]) -> list[Any]:
        names = [spec.name for spec in self.inputs]
        if not isinstance(inputs, Mapping):
            if len(inputs) != len(names):
                raise InputError(
                    f"expected {len(names)} inputs ({', '.join(names)}), got {len(inputs)}"
                )
            return list(inputs)
        for name in inputs:
            if name not in names:
                raise unknown_input(name, names)
        for spec in self.inputs:
            if spec.name not in inputs:
                raise InputError(f"missing input {spec.name!r}: expected {spec}")
        return [inputs[name] for name in names]

    def _call(self, tensors: list[tvm.runtime.Tensor]) -> Any:
        with self._starting:
            worker, main = self._worker
        try:
            return worker.submit(main, *tensors).result()
        except ValueError as error:
            if "divided by zero" not in str(error):
                raise
            raise InputError(f"with these inputs {error}") from None

    @functools.cached_property
    def _worker(self) -> tuple[ThreadPoolExecutor, Callable[..., Any]]:
        """The thread that owns the virtual machine, and the machine's function ``main``."""
        library.check_machine(self.info)
        executor = ThreadPoolExecutor(
            1, "tvm_sparse", initializer=start_pool, initargs=(self.threads,)
        )
        machine = executor.submit(relax.VirtualMachine, self._module, tvm.cpu()).result()
        return executor, machine["main"]


def _to_tensor(array: np.ndarray) -> tvm.runtime.Tensor:
    """Return `array` as TVM takes it: in its own memory if DLPack allows that, else as a copy."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned and flags.writeable and array.dtype.kind != _FOREIGN:
        return tvm_ffi.from_dlpack(array)
    return tvm.runtime.tensor(array)


def _to_array(tensor: tvm.runtime.Tensor) -> np.ndarray:
    """Return `tensor` for NumPy: in its own memory, or as a copy if NumPy lacks its dtype."""
    if np.dtype(str(tensor.dtype)).kind == _FOREIGN:
        return tensor.numpy()
    return np.from_dlpack(tensor)


# The kind of dtypes that NumPy has from ml_dtypes, such as bfloat16; DLPack refuses them.
_FOREIGN = "V"
