"""The engines that the benchmark measures beside ours, with the same few methods."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tvm_sparse.compat.deepsparse.engine import Engine
from tvm_sparse.compat.deepsparse.errors import InputValueError
from tvm_sparse.compat.deepsparse.models import (
    Shapes,
    example_arrays,
    input_shapes,
    model_to_path,
    with_shapes,
)
from tvm_sparse.compat.deepsparse.scheduler import Scheduler, shares
from tvm_sparse.cpu.threads import share_of_cores
from tvm_sparse.errors import ModelError, border
from tvm_sparse.frontends.onnx_file import read_model

OURS = "tvm-sparse"


def open_engine(
    engine: str,
    model_path: str | os.PathLike[str],
    batch_size: int,
    num_cores: int | None,
    num_streams: int | None,
    scheduler: Scheduler,
    shapes: Shapes | None,
    options: Mapping[str, Any],
) -> Any:
    """Return an engine that has loaded a model: ours, ONNX Runtime's, or one of a user's class.

    Raises
    ------
    ValueError
        If there is no such engine.
    """
    if engine in (OURS, "deepsparse"):
        return Engine(model_path, batch_size, num_cores, num_streams, scheduler, shapes, **options)
    if engine == "onnxruntime":
        return ORTEngine(model_path, batch_size, num_cores, num_streams, scheduler, shapes)
    file, _, name = engine.rpartition(":")
    if not file.endswith(".py"):
        raise InputValueError(
            f"unknown engine {engine!r}: it is {OURS}, onnxruntime, or file.py:Class"
        )
    return _user_class(Path(file), name)(
        os.fspath(model_path),
        batch_size=batch_size,
        num_cores=num_cores,
        num_streams=num_streams,
        scheduler=scheduler,
        input_shapes=shapes,
    )


class ORTEngine:
    """ONNX Runtime, with the methods of `Engine` that the benchmark calls.

    Parameters
    ----------
    model, batch_size, num_cores, num_streams, scheduler, input_shapes
        As for `Engine`. Each of several requests at once runs on its share of the cores.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        batch_size: int | None = 1,
        num_cores: int | None = None,
        num_streams: int | None = None,
        scheduler: Scheduler | str | None = None,
        input_shapes: Shapes | None = None,
    ) -> None:
        from tvm_sparse.onnx_runtime import onnxruntime

        self.model_path = model_to_path(model)
        self.scheduler, self.num_cores, self.num_streams = shares(num_cores, num_streams, scheduler)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = share_of_cores(self.num_cores, self.num_streams)
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        with ExitStack() as stack:
            path = stack.enter_context(with_shapes(self.model_path, batch_size, input_shapes))
            stack.enter_context(border(ModelError, f"{self.model_path}: ONNX Runtime refuses it"))
            self._session = onnxruntime.InferenceSession(
                path, settings, providers=["CPUExecutionProvider"]
            )
            self._inputs = example_arrays(read_model(path)[0])

    def generate_random_inputs(self) -> list[np.ndarray]:
        """Return inputs of the right shapes and dtypes."""
        return list(self._inputs.values())

    def run(self, inp: Sequence[np.ndarray], val_inp: bool = True) -> list[np.ndarray]:
        """Run a batch."""
        return list(self._session.run(None, dict(zip(self._inputs, inp, strict=True))))


def sequence_shapes(
    model_path: str | os.PathLike[str],
    batch_size: int,
    shapes: Shapes | None,
    sequence_length: int,
) -> list[list[int]]:
    """Return the shapes of all inputs; the second dimension of those that have two is a length.

    Raises
    ------
    InputError
        If another dimension remains unknown.
    """
    model, _ = read_model(model_to_path(model_path))
    for value in model.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        if len(dimensions) == 2:
            dimensions[1].dim_value = sequence_length
    return [list(shape) for shape in input_shapes(model, batch_size, shapes).values()]


def _user_class(file: Path, name: str) -> Any:
    """Return a class of a user's Python file.

    Raises
    ------
    ValueError
        If the file cannot be imported, or has no class of that name.
    """
    if not file.is_file():
        raise InputValueError(f"{file}: there is no such file")
    found = importlib.util.spec_from_file_location(file.stem, file)
    if found is None or found.loader is None:
        raise InputValueError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(found)
    with border(InputValueError, f"{file}: cannot be imported"):
        found.loader.exec_module(module)
    if not hasattr(module, name):
        raise InputValueError(f"{file}: has no class {name!r}")
    return getattr(module, name)
