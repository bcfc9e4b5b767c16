"""NumPy arrays that compiled code reads and returns; they are copied only where that is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tvm_ffi

from tvm_sparse.errors import InputError, LibraryError
from tvm_sparse.runtime.empty import with_products_as_strides
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.specs import TensorSpec, unknown_input


def to_arrays(
    result: Any,
    info: LibraryInfo,
    inputs: Sequence[np.ndarray],
    given: Sequence[tvm_ffi.Tensor],
) -> dict[str, np.ndarray]:
    """Return the outputs that compiled code computed; they are the caller's own.

    Parameters
    ----------
    result : tensor or array of tensor
        What the code returned.
    info : LibraryInfo
        What the library says about itself.
    inputs : sequence of numpy.ndarray
        The inputs.
    given : sequence of tensor
        The inputs as the code got them.
    """
    tensors = [result] if isinstance(result, tvm_ffi.Tensor) else _items(result)
    if len(tensors) != len(info.outputs):
        raise LibraryError(
            f"the library's description names {len(info.outputs)} outputs, and its code computes "
            f"{len(tensors)}; compile the model again"
        )
    # NumPy's own test of whether two arrays share memory takes longer for each pair.
    taken = [
        (first := tensor.data_ptr(), first + array.nbytes)
        for tensor, array in zip(given, inputs, strict=True)
    ]
    outputs: dict[str, np.ndarray] = {}
    for spec, tensor in zip(info.outputs, tensors, strict=True):
        # NumPy shares the memory of types that it has by itself, and gets a copy of others.
        array = np.from_dlpack(tensor) if spec.dtype in _OF_NUMPY else tensor.numpy()
        first = tensor.data_ptr()
        last = first + array.nbytes
        # An output may be a view of a weight, of an input or of another output.
        is_view = spec.name in info.constant_outputs
        for begin, end in taken:
            is_view = is_view or (first < end and begin < last)
        taken.append((first, last))
        outputs[spec.name] = array.copy() if is_view else array
    return outputs


def _items(result: Any) -> list[Any]:
    """Return the items of an array of TVM, which is slow to iterate over."""
    return [_GET_ITEM(result, position) for position in range(len(result))]


_GET_ITEM = tvm_ffi.get_global_func("ffi.ArrayGetItem")


Inputs: TypeAlias = "Mapping[str, Any] | Sequence[Any] | Any | None"
"""The inputs of a call: by name, all in the order of the model, or the only one."""


def in_order(
    specs: Sequence[TensorSpec], inputs: Inputs, named: Mapping[str, Any] | None = None
) -> list[Any]:
    """Return the inputs of a call in the order of the model.

    Parameters
    ----------
    specs : sequence of TensorSpec
        The inputs of the model.
    inputs : mapping, sequence or array
        What the caller gives as one argument; None for nothing.
    named : mapping, optional
        What the caller gives by name.

    Raises
    ------
    InputError
        If an input is missing or unknown, or inputs are given in both ways.
    """
    if named and inputs is not None:
        raise InputError("inputs are given both by name and without one; choose one way")
    if inputs is None:
        inputs = named or {}
    if type(inputs) in (list, tuple) and len(inputs) == len(specs):
        return list(inputs)
    names = [spec.name for spec in specs]
    if not isinstance(inputs, Mapping):
        # An array of PyTorch has no base class that is known here.
        if hasattr(inputs, "__array__") and len(names) == 1:
            return [inputs]
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
    if list(inputs) == names:
        return list(inputs.values())
    for name in inputs:
        if name not in names:
            raise unknown_input(name, names)
    for spec in specs:
        if spec.name not in inputs:
            raise InputError(f"missing input {spec.name!r}: expected {spec}")
    return [inputs[name] for name in names]


def to_tensor(array: np.ndarray) -> tvm_ffi.Tensor:
    """Return `array` as TVM takes it: in its own memory if DLPack allows that, else as a copy."""
    if array.dtype not in _DTYPES_OF_NUMPY:
        import tvm

        return tvm.runtime.tensor(array)
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable):
        array = np.array(array, order="C")
    return tvm_ffi.from_dlpack(with_products_as_strides(array))


def prepare_types(info: LibraryInfo) -> None:
    """Import what converts the inputs and outputs of a library, if NumPy lacks a type of theirs."""
    if any(spec.dtype not in _OF_NUMPY for spec in (*info.inputs, *info.outputs)):
        import tvm  # noqa: F401


_DTYPES_OF_NUMPY = frozenset(map(np.dtype, np.typecodes["AllInteger"] + "?efd"))
"""Types that NumPy has by itself. It has others, such as bfloat16, from ml_dtypes; DLPack refuses
them, and TVM copies them."""

_OF_NUMPY = frozenset(dtype.name for dtype in _DTYPES_OF_NUMPY)
