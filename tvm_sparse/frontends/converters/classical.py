"""Operators of ai.onnx.ml: what scikit-learn does to features of a table, and its linear models.

The trees, the support vector machines, and what works on text stay with ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.frontends.converters.node import Node

_FLOATS = ("float32", "float64")


def scaler(node: Node) -> Any:
    """Convert Scaler: ``(x - offset) * scale``, each one number or one for each feature."""
    x, features = _in_floats(node), _features(node)
    dtype = str(x.ty.dtype)
    offset, scale = (_for_features(node, name, features) for name in ("offset", "scale"))
    if len(offset) != len(scale):
        raise NotImplementedError("its attributes 'offset' and 'scale' have different lengths")
    moved = node.emit(relax.op.subtract(x, relax.const(offset, dtype)))
    return _result(node, relax.op.multiply(moved, relax.const(scale, dtype)))


def normalizer(node: Node) -> Any:
    """Convert Normalizer; a row whose norm is 0 stays as it is.

    The norm ``MAX`` is the largest value, not the largest magnitude, and no NaN.
    """
    x, kind = _in_floats(node), node.text("norm", "MAX")
    _features(node)
    if kind == "MAX":
        least = relax.const(-np.inf, str(x.ty.dtype))
        numbers = node.emit(relax.op.where(node.emit(relax.op.isnan(x)), least, x))
        norm = relax.op.max(numbers, -1, keepdims=True)
    elif kind == "L1":
        norm = relax.op.sum(node.emit(relax.op.abs(x)), -1, keepdims=True)
    elif kind == "L2":
        squares = node.emit(relax.op.multiply(x, x))
        norm = relax.op.sqrt(node.emit(relax.op.sum(squares, -1, keepdims=True)))
    else:
        raise NotImplementedError(f"its attribute 'norm' is {kind!r}")
    norm, dtype = node.emit(norm), str(x.ty.dtype)
    is_zero = node.emit(relax.op.equal(norm, relax.const(0, dtype)))
    divisor = node.emit(relax.op.where(is_zero, relax.const(1, dtype), norm))
    return _result(node, relax.op.divide(x, divisor))


def imputer(node: Node) -> Any:
    """Convert Imputer: other numbers take the place of one number, or of NaN."""
    if node.dtype(0) != "float32":
        raise NotImplementedError(f"it is not supported for {node.dtype(0)}")
    x = node.inputs[0]
    values = _for_features(node, "imputed_value_floats", _features(node))
    replaced = float(node.attributes.get("replaced_value_float", 0.0))
    if np.isnan(replaced):
        is_replaced = relax.op.isnan(x)
    else:
        is_replaced = relax.op.equal(x, relax.const(replaced, "float32"))
    return relax.op.where(node.emit(is_replaced), relax.const(values, "float32"), x)


def linear_regressor(node: Node) -> Any:
    """Convert LinearRegressor, a product with constant coefficients."""
    if node.dtype(0) != "float32" or len(node.shape(0)) != 2:
        raise NotImplementedError("its input is no matrix of float32")
    if (kind := node.text("post_transform", "NONE")) != "NONE":
        raise NotImplementedError(f"its attribute 'post_transform' is {kind!r}")
    targets = int(node.attributes.get("targets", 1))
    weight = _numbers(node, "coefficients").reshape(targets, -1)
    result = node.emit(relax.op.matmul(node.inputs[0], relax.const(weight.T, "float32")))
    intercepts = _numbers(node, "intercepts")
    return relax.op.add(result, relax.const(intercepts, "float32")) if intercepts.size else result


def _in_floats(node: Node) -> relax.Expr:
    """Return the input in the type that ONNX Runtime computes in."""
    if node.dtype(0) in _FLOATS:
        return node.inputs[0]
    return node.emit(relax.op.astype(node.inputs[0], "float32"))


def _result(node: Node, value: relax.Expr) -> relax.Expr:
    return value if node.dtype(0) != "float64" else relax.op.astype(node.emit(value), "float32")


def _features(node: Node) -> int:
    """Return the number of features, which the last axis has."""
    shape = getattr(node.inputs[0].ty, "shape", None)
    if shape is None or len(shape) not in (1, 2):
        raise NotImplementedError("its input is neither a row nor a matrix")
    if not isinstance(shape[-1], tvm.tirx.IntImm):
        raise NotImplementedError("the number of its features is known only at run time")
    return int(shape[-1])


def _numbers(node: Node, name: str) -> NDArray[np.float32]:
    return np.array(node.attributes.get(name, ()), "float32")


def _for_features(node: Node, name: str, features: int) -> NDArray[np.float32]:
    values = _numbers(node, name)
    if len(values) not in (1, features):
        raise NotImplementedError(
            f"its attribute {name!r} has {len(values)} numbers for {features} features"
        )
    return values


CLASSICAL: dict[str, Callable[[Node], Any]] = {
    "Imputer": imputer,
    "LinearRegressor": linear_regressor,
    "Normalizer": normalizer,
    "Scaler": scaler,
}
"""The operators by their names without the domain."""
