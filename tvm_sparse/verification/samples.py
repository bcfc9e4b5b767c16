"""Several samples of the inputs of a model, such as a quantizer computes scales from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from tvm_sparse.errors import InputError

Feeds = Mapping[str, np.ndarray]


def samples_of(proto: onnx.ModelProto, calibration: Mapping[str, Any]) -> list[Feeds]:
    """Return the values of the inputs, sample by sample.

    An array with one axis more than its input holds several samples along its first axis.

    Raises
    ------
    InputError
        If an input has no values, or values of another type or shape.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    columns: dict[str, list[np.ndarray]] = {}
    for value in inputs:
        if value.name not in calibration:
            raise InputError(f"calibration: no values of input {value.name!r}")
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        array = np.asarray(calibration[value.name])
        rank = len(tensor.shape.dim)
        if array.ndim not in (rank, rank + 1) or array.size == 0:
            raise InputError(
                f"calibration: input {value.name!r} has {rank} axes, and its values have "
                f"{array.ndim} (one more if the first one counts samples)"
            )
        if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind"):
            raise InputError(f"calibration: input {value.name!r} is {dtype}, not {array.dtype}")
        parts = list(array) if array.ndim > rank else [array]
        columns[value.name] = [part.astype(dtype) for part in parts]
        for size, dim in zip(parts[0].shape, tensor.shape.dim, strict=True):
            if dim.HasField("dim_value") and dim.dim_value != size:
                wanted = [d.dim_value or d.dim_param or "?" for d in tensor.shape.dim]
                raise InputError(
                    f"calibration: input {value.name!r} has shape {wanted}, and its values have "
                    f"{list(parts[0].shape)}"
                )
    counts = {len(parts) for parts in columns.values()}
    if len(counts) > 1:
        raise InputError(f"calibration: inputs have different numbers of samples: {counts}")
    count = counts.pop() if counts else 0
    return [{name: parts[i] for name, parts in columns.items()} for i in range(count)]


class Reader:
    """Calibration inputs as ONNX Runtime's quantizer takes them."""

    def __init__(self, samples: Sequence[Feeds]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Feeds | None:
        """Return the next sample, None behind the last one."""
        return next(self._samples, None)
