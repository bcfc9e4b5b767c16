"""Quantized constants: ``dequantize(w, scale, zero)``, whose operands are all constants."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators import QUANTIZE_TO_EVEN

DEQUANTIZE = "relax.dequantize"
QUANTIZE = "relax.quantize"
QUANTIZING = (QUANTIZE, QUANTIZE_TO_EVEN.name)
"""The operators that round numbers to integers by a scale and a zero point."""

WEIGHTS = ("int8", "uint8")
"""Element types of which layers have kernels."""


def is_quantized_constant(value: relax.Expr | None) -> bool:
    """Whether `value` dequantizes a constant."""
    if value is None or not is_call_to(value, DEQUANTIZE):
        return False
    return all(isinstance(arg, tvm.ir.GenericConst) for arg in value.args)


def is_quantized_weight(value: relax.Expr | None) -> bool:
    """Whether `value` dequantizes a constant that can be the weight of a layer."""
    if value is None or not is_quantized_constant(value):
        return False
    data = value.args[0]
    return str(data.ty.dtype) in WEIGHTS and len(data.value.shape) > 1
