"""f(n) => the constant that f computes: sizes, indices and masks, by NumPy

Exporters write a size as a Gather of a Shape, count an index back from the end of an axis by a
comparison and a Where, and make masks of positions. TVM's `FoldConstant` compiles a function for
each call, which for networks of many such chains takes minutes.

Integers wrap around in NumPy as they do in compiled code. Runs before `CheckIndices`, so that an
index which is computed of constants is checked when the network is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from tvm_sparse.passes.canonicalize.compute_constants import SAME_ORDER, TRANSPOSE, transposed
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import known_shape, static_shape

_DTYPES = ("int32", "int64", "bool")
_LARGEST = 1 << 22
"""Elements of a result; a larger one, such as a mask that is broadcast, is left to TVM."""

_Array = NDArray[Any]


@tvm.transform.module_pass(opt_level=0, name="ComputeIndices")
class ComputeIndices:
    """Replace calls on constant integers, and on shapes that are known, by constants."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without such calls."""
        return rewrite_calls(mod, _compute)


def _compute(call: relax.Call, lookup: Lookup, _emit: Emit) -> relax.Expr | None:
    shape = static_shape(call)
    compute = _COMPUTED.get(call.op.name) if isinstance(call.op, tvm.ir.Op) else None
    if compute is None or shape is None or call.ty.dtype not in _DTYPES:
        return None
    if math.prod(shape) > _LARGEST:
        return None
    arrays = [_array(source, lookup) for source in _sources(call)]
    known = [array for array in arrays if array is not None]
    if len(known) < len(arrays):
        return None
    result = compute(call, known)
    if result is None or result.shape != shape:
        return None
    return relax.const(np.ascontiguousarray(result).reshape(shape), call.ty.dtype)


def _sources(call: relax.Call) -> list[relax.Expr]:
    """Return the tensors that a call reads; its other arguments are numbers."""
    if is_call_to(call, "relax.concat") and isinstance(call.args[0], relax.Tuple):
        return list(call.args[0].fields)
    return [call.args[0]] if call.op.name in _OF_ONE else list(call.args)


def _array(source: relax.Expr, lookup: Lookup) -> _Array | None:
    """Return a constant of integers or booleans, or the sizes of a shape that is known."""
    source = lookup(source)
    if isinstance(source, tvm.ir.GenericConst):
        return source.value.numpy() if source.ty.dtype in _DTYPES else None
    if is_call_to(source, "relax.shape_of"):
        source = source.args[0].ty.shape
    if isinstance(source, relax.ShapeExpr) and all(isinstance(n, tirx.IntImm) for n in source):
        return np.array([int(size) for size in source], "int64")
    return None


def _elementwise(function: Callable[..., Any], dtypes: tuple[str, ...] = _DTYPES) -> _Compute:
    def compute(_call: relax.Call, arrays: list[_Array]) -> _Array | None:
        if any(array.dtype not in dtypes for array in arrays):
            return None
        return np.asarray(function(*arrays))

    return compute


def _reshaped(call: relax.Call, arrays: list[_Array]) -> _Array:
    return arrays[0].reshape(known_shape(call))


def _transposed(call: relax.Call, arrays: list[_Array]) -> _Array:
    return transposed(call, arrays[0])


def _broadcast(call: relax.Call, arrays: list[_Array]) -> _Array:
    return np.broadcast_to(arrays[0], known_shape(call))


def _cast(call: relax.Call, arrays: list[_Array]) -> _Array:
    return arrays[0].astype(str(call.ty.dtype))


def _concatenated(call: relax.Call, arrays: list[_Array]) -> _Array:
    return np.concatenate(arrays, int(call.attrs.axis))


def _taken(call: relax.Call, arrays: list[_Array]) -> _Array | None:
    axis, mode = call.attrs.axis, call.attrs.mode
    axis = None if axis is None else int(axis)
    size = arrays[0].size if axis is None else arrays[0].shape[axis]
    if mode == "fast" and ((arrays[1] < 0) | (arrays[1] >= size)).any():
        return None
    return np.take(arrays[0], arrays[1], axis, mode="raise" if mode == "fast" else mode)


def _sliced(call: relax.Call, arrays: list[_Array]) -> _Array | None:
    if not all(isinstance(n, tirx.IntImm) for numbers in call.args[1:] for n in numbers):
        return None
    axes, begins, ends, *strides = ([int(n) for n in numbers] for numbers in call.args[1:])
    places = [slice(None)] * arrays[0].ndim
    for i, axis in enumerate(axes):
        places[axis] = slice(begins[i], ends[i], strides[0][i] if strides else 1)
    return arrays[0][tuple(places)]


_Compute = Callable[[relax.Call, list[_Array]], _Array | None]

_INTEGERS, _BOOLEANS = ("int32", "int64"), ("bool",)

_OF_ONE: dict[str, _Compute] = {
    "relax.shape_to_tensor": _reshaped,
    TRANSPOSE: _transposed,
    "relax.broadcast_to": _broadcast,
    "relax.astype": _cast,
    "relax.strided_slice": _sliced,
    **dict.fromkeys(SAME_ORDER, _reshaped),
}
"""Operators whose first argument is the only tensor."""

_COMPUTED: dict[str, _Compute] = {
    **_OF_ONE,
    "relax.concat": _concatenated,
    "relax.take": _taken,
    "relax.where": _elementwise(np.where),
    "relax.logical_and": _elementwise(np.logical_and, _BOOLEANS),
    "relax.logical_or": _elementwise(np.logical_or, _BOOLEANS),
    "relax.logical_not": _elementwise(np.logical_not, _BOOLEANS),
    "relax.add": _elementwise(np.add, _INTEGERS),
    "relax.subtract": _elementwise(np.subtract, _INTEGERS),
    "relax.multiply": _elementwise(np.multiply, _INTEGERS),
    "relax.negative": _elementwise(np.negative, _INTEGERS),
    "relax.minimum": _elementwise(np.minimum, _INTEGERS),
    "relax.maximum": _elementwise(np.maximum, _INTEGERS),
    "relax.less": _elementwise(np.less, _INTEGERS),
    "relax.less_equal": _elementwise(np.less_equal, _INTEGERS),
    "relax.greater": _elementwise(np.greater, _INTEGERS),
    "relax.greater_equal": _elementwise(np.greater_equal, _INTEGERS),
    "relax.equal": _elementwise(np.equal, _INTEGERS),
    "relax.not_equal": _elementwise(np.not_equal, _INTEGERS),
}
