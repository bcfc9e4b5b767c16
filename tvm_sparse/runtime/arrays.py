"""NumPy arrays that compiled code reads and returns; they are copied only where that is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from tvm_sparse.errors import InputError, LibraryError
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.specs import TensorSpec, unknown_input


def to_arrays(
    result: Any, info: LibraryInfo, inputs: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the outputs that compiled code computed from `inputs`; they are the caller's own."""
    tensors = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
    if len(tensors) != len(info.outputs):
        raise LibraryError(
            f"the library's description names {len(info.outputs)} outputs, and its code computes "
            f"{len(tensors)}; compile the model again"
        )
    taken = list(inputs)
    outputs: dict[str, np.ndarray] = {}
    for spec, tensor in zip(info.outputs, tensors, strict=True):
        array = _to_array(tensor)
        # An output may be a view of an input, of another output or of a weight.
        if spec.name in info.constant_outputs or any(
            np.may_share_memory(array, other) for other in taken
        ):
            array = array.copy()
        taken.append(array)
        outputs[spec.name] = array
    return outputs


def in_order(specs: Sequence[TensorSpec], inputs: Mapping[str, Any] | Sequence[Any]) -> list[Any]:
    """Return the inputs of a call in the order of the model.

    Raises
    ------
    InputError
        If an input is missing or unknown.
    """
    names = [spec.name for spec in specs]
    if not isinstance(inputs, Mapping):
        if not isinstance(inputs, Sequence) or isinstance(inputs, str | bytes):
            raise InputError(
                f"inputs must be a dict of arrays by name, or a list of arrays; expected "
                f"{', '.join(map(str, specs))}, got {type(inputs).__name__}"
            )
        if len(inputs) != len(names):
            raise InputError(
                f"expected {len(names)} inputs ({', '.join(names)}), got {len(inputs)}"
            )
        return list(inputs)
    for name in inputs:
        if name not in names:
            raise unknown_input(name, names)
    for spec in specs:
        if spec.name not in inputs:
            raise InputError(f"missing input {spec.name!r}: expected {spec}")
    return [inputs[name] for name in names]


def to_tensor(array: np.ndarray) -> tvm.runtime.Tensor:
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
