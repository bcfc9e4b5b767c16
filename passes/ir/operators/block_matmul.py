"""Layers whose weight has few bits, as a model holds them: ``matmul(x, weight)``.

`ExpandBlocks` decides early which of them stay. `PackBlockWeights` makes kernels of those that do.
"""

from __future__ import annotations

from tvm import relax

from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator
from tvm_sparse.passes.ir.shapes import known_shape
from tvm_sparse.sizes.block_linear import BlockLinear


def block_matmul(x: relax.Expr, weight: BlockCodes, activations: str) -> relax.Call:
    """Multiply a tensor by a weight of few bits.

    Parameters
    ----------
    x : relax.Expr
        ``(..., K)``, float32.
    weight : BlockCodes
        The weight, ``(N, K)``.
    activations : str
        What kernels of few bits may round `x` to, as in `BlockLinear`.
    """
    arrays = (relax.const(array) for array in (weight.codes, weight.scales, weight.zeros))
    fields = {"bits": weight.bits, "block": weight.block, "activations": activations}
    return BLOCK_MATMUL.call(x, *arrays, **fields)


def block_codes_of(call: relax.Call) -> BlockCodes:
    """Return the weight of a `block_matmul`."""
    codes, scales, zeros = (
        BLOCK_MATMUL.operand(call, name).value.numpy() for name in ("codes", "scales", "zeros")
    )
    return BlockCodes(codes, scales, zeros, int(call.attrs["bits"]), int(call.attrs["block"]))


def block_linear_of(call: relax.Call, rows: int) -> BlockLinear:
    """Return the sizes of a `block_matmul` of a number of rows."""
    n, k = known_shape(BLOCK_MATMUL.operand(call, "codes"))
    attrs = call.attrs
    codes = int(attrs["bits"]), int(attrs["block"]), str(attrs["activations"])
    return BlockLinear(rows, n, k, *codes)


def float_matmul(call: relax.Call) -> relax.Call:
    """Return a `block_matmul` as a product by the floats that its weight stands for."""
    weight = relax.const(block_codes_of(call).to_dense().T.copy())
    return relax.op.matmul(call.args[0], weight)


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    n, _ = known_shape(BLOCK_MATMUL.operand(call, "codes"))
    shape = list(BLOCK_MATMUL.operand(call, "x").ty.shape)
    return relax.TensorType([*shape[:-1], n], "float32")


BLOCK_MATMUL = Operator(PREFIX + "block_matmul", ("x", "codes", "scales", "zeros"), infer=_infer)
