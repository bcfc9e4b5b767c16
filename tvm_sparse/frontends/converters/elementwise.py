"""Elementwise operators whose rare values TVM's converters get wrong."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.frontends.converters.node import Node


def bit_shift(node: Node) -> Any:
    """Convert BitShift; a shift by the width of the type or more leaves nothing."""
    emit = node.emit
    x, amount = node.inputs[0], node.inputs[1]
    dtype, amounts = node.dtype(0), node.dtype(1)
    bits = np.dtype(dtype).itemsize * 8
    most = relax.const(bits - 1, amounts)
    beyond = emit(relax.op.greater(amount, most))
    if amounts.startswith("int"):
        negative = emit(relax.op.less(amount, relax.const(0, amounts)))
        beyond = emit(relax.op.logical_or(beyond, negative))
    safe = emit(relax.op.where(beyond, relax.const(0, amounts), amount))
    left = node.text("direction", "") == "LEFT"
    shift = relax.op.left_shift if left else relax.op.right_shift
    shifted = emit(shift(x, safe))
    rest = relax.const(0, dtype)
    if not left and dtype.startswith("int"):
        # The sign fills the places that an arithmetic shift frees.
        rest = emit(relax.op.right_shift(x, relax.const(bits - 1, dtype)))
    return relax.op.where(beyond, rest, shifted)


def is_infinite(node: Node) -> Any:
    """Convert IsInf, which may ask for one sign only."""
    x, zero = node.inputs[0], relax.const(0, node.dtype(0))
    positive = node.attributes.get("detect_positive", 1)
    negative = node.attributes.get("detect_negative", 1)
    infinite = node.emit(relax.op.isinf(x))
    if positive and negative:
        return infinite
    if not positive and not negative:
        return relax.op.logical_and(infinite, relax.const(False, "bool"))
    sign = relax.op.greater(x, zero) if positive else relax.op.less(x, zero)
    return relax.op.logical_and(infinite, node.emit(sign))


def thresholded_relu(node: Node) -> Any:
    """Convert ThresholdedRelu; TVM's converter multiplies infinities by zero."""
    x, dtype = node.inputs[0], node.dtype(0)
    alpha = relax.const(float(node.attributes.get("alpha", 1.0)), dtype)
    return relax.op.where(node.emit(relax.op.greater(x, alpha)), x, relax.const(0, dtype))


def sign(node: Node) -> Any:
    """Convert Sign; that of NaN is NaN, and TVM's is 0."""
    x = node.inputs[0]
    if not node.dtype(0).startswith(("float", "bfloat")):
        return node.by_tvm()
    is_nan = node.emit(relax.op.isnan(x))
    return relax.op.where(is_nan, x, node.emit(relax.op.sign(x)))


def modulo(node: Node) -> Any:
    """Convert Mod; a float modulo an infinity is the float, or the infinity of the other sign."""
    if node.attributes.get("fmod", 0) or not node.dtype(0).startswith("float"):
        return node.by_tvm()
    emit, (x, y), zero = node.emit, node.inputs[:2], relax.const(0, node.dtype(0))
    rest = emit(relax.op.floor_mod(x, y))
    same = emit(relax.op.greater_equal(emit(relax.op.multiply(x, y)), zero))
    same = emit(relax.op.logical_or(same, emit(relax.op.equal(x, zero))))
    whole = emit(relax.op.logical_and(emit(relax.op.isinf(y)), emit(relax.op.isfinite(x))))
    return relax.op.where(whole, emit(relax.op.where(same, x, y)), rest)


_PAIRWISE = {"Max": relax.op.maximum, "Min": relax.op.minimum, "Sum": relax.op.add}


def variadic(node: Node) -> Any:
    """Convert Max, Min and Sum pair by pair; TVM's converter stacks copies of the operands."""
    inputs, operator = [*node.inputs], _PAIRWISE[node.op_type]
    if all(isinstance(value, tvm.ir.GenericConst) for value in inputs):
        return node.by_tvm()
    return functools.reduce(lambda x, y: node.emit(operator(x, y)), inputs)


MOST_FACTORS = 8
"""The largest power of an integer that is written out as products."""


def power(node: Node) -> Any:
    """Convert Pow; TVM has no power of integers, so small constant ones become products.

    Exponents of another type get that of the base, as the result has it.
    """
    dtype = node.dtype(0)
    if dtype.startswith("float") and node.dtype(1) != dtype:
        base, exponent = node.inputs[:2]
        if isinstance(exponent, tvm.ir.GenericConst):
            cast: Any = relax.const(exponent.value.numpy().astype(dtype), dtype)
        else:
            cast = node.emit(relax.op.astype(exponent, dtype))
        return node.convert("Pow", [base, cast], node.attributes)
    if dtype.startswith("float") or not isinstance(node.inputs[0], relax.Var):
        return node.by_tvm()
    exponent = node.constant(1, "Y")
    if exponent is None or exponent.size != 1 or exponent.item() not in range(1, MOST_FACTORS + 1):
        raise NotImplementedError(f"it is not supported for {dtype}")
    result = node.inputs[0]
    for _ in range(int(exponent.item()) - 1):
        result = node.emit(relax.op.multiply(result, node.inputs[0]))
    return result
