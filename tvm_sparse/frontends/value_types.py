"""Element types and shapes of all tensors in an ONNX model, as ONNX Runtime finds them."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tvm_sparse.onnx_runtime import onnxruntime

_LARGEST_SIZE = 64
"""The largest number that stands for a size; an array of three dimensions of it has 1 MB."""

SAMPLING_SECONDS = 30.0
"""How long a model may run that is tried for the shapes of its values."""

_FEWEST_RUNS = 3
"""Runs that must agree on a shape: two may do so by chance."""

_BITS = (8, 16, 32, 64)

# What ONNX Runtime calls the element types that NumPy has too.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({name}{bits})": f"{name}{bits}" for name in ("int", "uint") for bits in _BITS},
}


@dataclass(frozen=True)
class ValueType:
    """The type of a value in an ONNX graph.

    Attributes
    ----------
    dtype : str or None
        The name of the element type in NumPy; None for strings, sequences and all else that is no
        array of numbers in NumPy.
    shape : tuple of int, or None
        The dimensions, -1 for one that the graph does not tell; None if the rank is unknown.
    described : str
        ONNX Runtime's name of the type, such as ``tensor(string)``.
    """

    dtype: str | None
    shape: tuple[int, ...] | None
    described: str

    @property
    def is_static(self) -> bool:
        """Whether all dimensions are known."""
        return self.dtype is not None and self.shape is not None and -1 not in self.shape


def value_types(model: onnx.ModelProto, folder: Path) -> dict[str, ValueType]:
    """Return the types of all inputs and of what the nodes of the main graph produce.

    Parameters
    ----------
    model : onnx.ModelProto
        A model whose inputs have static shapes.
    folder : Path
        The folder that the locations of external weights are relative to.

    Raises
    ------
    Exception
        Of any kind, if ONNX Runtime cannot run the model.
    """
    names = [name for node in model.graph.node for name in node.output if name]
    session = _session(_with_outputs(model, names), folder)
    types = {value.name: _type(value) for value in (*session.get_inputs(), *session.get_outputs())}
    for value in model.graph.output:
        declared = value.type.tensor_type
        found = types.get(value.name)
        if found and found.shape is None and declared.HasField("shape"):
            types[value.name] = replace(found, shape=(-1,) * len(declared.shape.dim))
    return types


def with_sampled_shapes(
    types: Mapping[str, ValueType], model: onnx.ModelProto, folder: Path, names: Collection[str]
) -> dict[str, ValueType]:
    """Return `types` with the shapes that the values `names` have whatever the inputs hold.

    The model runs on zeros, ones, numbers that count up, random ones of several ranges, and some
    that are as large as sizes are, as far as it takes them. A dimension that changes between them,
    or that is 0 in one, stays unknown. If the model takes fewer than three kinds, no more than the
    ranks are known. A model that runs for `SAMPLING_SECONDS`, such as a loop without end, is
    stopped.
    """
    session = _session(_with_outputs(model, names), folder)
    known, runs = dict(types), 0
    options = onnxruntime.RunOptions()
    stop = threading.Timer(SAMPLING_SECONDS, setattr, (options, "terminate", True))
    stop.daemon = True
    stop.start()
    for feeds in _samples(session):
        try:
            results = session.run(list(names), feeds, options)
        # ONNX Runtime's errors share no base class below Exception.
        except Exception:
            continue
        runs += 1
        for name, array in zip(names, results, strict=True):
            if types[name].dtype is not None:
                known[name] = _agreed(types[name], known[name], np.shape(array))
    stop.cancel()
    if runs < _FEWEST_RUNS:
        for name in names:
            sizes = known[name].shape
            if known[name] is not types[name] and sizes is not None:
                known[name] = replace(known[name], shape=(-1,) * len(sizes))
    return known


def _agreed(first: ValueType, known: ValueType, shape: tuple[int, ...]) -> ValueType:
    """Return a type with the dimensions of `shape`, where they are those known so far."""
    if known is first:
        return replace(known, shape=tuple(size or -1 for size in shape))
    if known.shape is None or len(known.shape) != len(shape):
        return replace(known, shape=None)
    return replace(
        known, shape=tuple(a if a == b else -1 for a, b in zip(known.shape, shape, strict=True))
    )


def _samples(session: Any) -> Iterator[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    shapes = {
        value.name: (_type(value).dtype, tuple(value.shape)) for value in session.get_inputs()
    }
    # A size below that of an array may leave a shape as it is, such as that of CenterCropPad.
    largest = max((size for _, shape in shapes.values() for size in shape), default=1)
    size = min(largest + 1, _LARGEST_SIZE)
    for fill in (
        np.zeros,
        np.ones,
        _counted,
        generator.standard_normal,
        lambda shape: np.full(shape, 5),
        lambda shape: np.full(shape, size),
        lambda shape: generator.integers(0, size, shape),
        lambda shape: generator.integers(0, size, shape),
    ):
        yield {
            name: np.asarray(np.abs(fill(shape)), dtype) for name, (dtype, shape) in shapes.items()
        }


def _counted(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape)


def _with_outputs(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a model whose outputs are `names`; ONNX Runtime finds their types."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    del wider.graph.output[:]
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return wider


def _session(model: onnx.ModelProto, folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _type(value: Any) -> ValueType:
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    # ONNX Runtime shows a scalar and a tensor of unknown rank in the same way.
    return ValueType(_DTYPES.get(value.type), shape or None, value.type)
