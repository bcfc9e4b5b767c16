"""Writes a decoder to a file, with large weights in a second one beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvm_sparse.decoders.config import DecoderConfig
from tvm_sparse.decoders.graph import decoder_model
from tvm_sparse.decoders.parameters import Parameters, parameter_shapes
from tvm_sparse.files import replacing

BESIDE_FROM = 250_000_000
"""Parameters from which on weights lie in a second file: 1 GB as floats."""

_ALIGNMENT = 4096
"""Bytes; that of a page, so that weights can be mapped."""

_SMALL = 1024
"""Bytes below which a weight stays in the first file, as with onnxruntime's tools."""


def write_decoder(
    path: Path,
    config: DecoderConfig,
    parameters: Parameters,
    *,
    accuracy_level: int = 4,
    packed: bool = True,
    beside: bool | None = None,
) -> Path:
    """Write a language model as ONNX, whole or not at all, and return its path.

    Parameters
    ----------
    path : Path
        The file to write.
    config, parameters, accuracy_level, packed
        As for `decoder_model`.
    beside : bool, optional
        Whether the weights go to ``<path>.data``; by default those of large models do.

    Raises
    ------
    ModelError
        If a parameter is missing or has another shape.
    OutputError
        If the files cannot be written.
    """
    if beside is None:
        shapes = parameter_shapes(config).values()
        beside = sum(int(np.prod(shape)) for shape in shapes) >= BESIDE_FROM
    build = partial(decoder_model, config, parameters, accuracy_level=accuracy_level, packed=packed)
    with replacing(path) as temporary:
        if not beside:
            onnx.save_model(build(), temporary)
            return path
        weights = path.with_name(f"{path.name}.data")
        with temporary.with_name("weights").open("wb") as file:
            store = _Beside(file, weights.name)
            model = build(store=store)
        onnx.save_model(model, temporary)
        temporary.with_name("weights").replace(weights)
    return path


class _Beside:
    """Writes weights to a file, and returns initializers that say where they lie."""

    def __init__(self, file: BinaryIO, location: str) -> None:
        self._file = file
        self._location = location

    def __call__(self, name: str, value: NDArray) -> onnx.TensorProto:
        if value.nbytes < _SMALL:
            return numpy_helper.from_array(value, name)
        self._file.seek(-self._file.tell() % _ALIGNMENT, 1)
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=value.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": self._location, "offset": self._file.tell(), "length": value.nbytes}
        for key, entry in entries.items():
            tensor.external_data.add(key=key, value=str(entry))
        value.tofile(self._file)
        return tensor
