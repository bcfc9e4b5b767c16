"""``round(x / scale + zero)``: of two equally near integers the even one.

``relax.quantize`` is ``round(x / scale) + zero``, which takes the even distance from zero. The two
differ where zero is odd.
"""

from __future__ import annotations

from tvm import relax

from tvm_sparse.passes.ir.legalize_quantize import legalize_quantize
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator


def quantize_to_even(
    x: relax.Expr, scale: relax.Expr, zero: relax.Expr, axis: int, out_dtype: str
) -> relax.Call:
    """Return the integers of `x`; the operands are those of ``relax.quantize``."""
    return QUANTIZE_TO_EVEN.call(x, scale, zero, axis=axis, out_dtype=out_dtype)


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    x = call.args[0].ty
    dtype = str(call.attrs["out_dtype"])
    if x.shape is None:
        return relax.TensorType(dtype=dtype, ndim=x.ndim)
    return relax.TensorType(x.shape, dtype)


QUANTIZE_TO_EVEN = Operator(
    PREFIX + "quantize_to_even",
    ("x", "scale", "zero"),
    infer=_infer,
    legalize=lambda builder, call: legalize_quantize(builder, call, to_even=True),
)
