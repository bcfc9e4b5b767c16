"""The types of elements that compiled code computes with, among those of ONNX."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from tvm_sparse.errors import ModelError

ELEMENT_TYPES = frozenset(
    {
        *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16),
        *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
        *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
        TensorProto.BOOL,
    }
)
"""ONNX's numbers of these types. Strings, complex numbers, floats of 8 bits and numbers of less
bits are left to ONNX Runtime."""

DTYPES = frozenset(helper.tensor_dtype_to_np_dtype(number).name for number in ELEMENT_TYPES)
"""The names of these types in NumPy and TVM."""


def element_type(number: int) -> str:
    """Return ONNX's name of a type of elements, such as ``float8e4m3fn``."""
    known = number in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(number)).lower() if known else f"type {number}"


def check_is_array(value: onnx.ValueInfoProto) -> None:
    """Check that an input of a model is an array of elements that compiled code computes with.

    Raises
    ------
    ModelError
        If it is not.
    """
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(
            f"input {value.name!r} is a {str(kind).removesuffix('_type')}; inputs and outputs must "
            "be arrays"
        )
    found = value.type.tensor_type.elem_type
    if found not in ELEMENT_TYPES:
        raise ModelError(
            f"input {value.name!r} is an array of {element_type(found)}; inputs and outputs must "
            f"be arrays of {', '.join(sorted(DTYPES))}"
        )
