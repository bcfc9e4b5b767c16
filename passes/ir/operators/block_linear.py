"""Layers whose weight has few bits: as a model holds them, and as kernels of a few rows do.

`block_matmul` is ``matmul(x, weight)`` with a weight that is a `BlockCodes`. `ExpandBlocks` decides
early which of them stay: those behind it become kernels on panels of one lane, and the others are
products of floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.row_dots import row_dots
from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.formats.groups import GroupedBlocks
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.epilogue import epilogue_of, tiling_attributes, tiling_for
from tvm_sparse.passes.ir.operators.operator import (
    EPILOGUE_OPERANDS,
    PREFIX,
    Operator,
    tensor_type,
)
from tvm_sparse.passes.ir.shapes import known_shape
from tvm_sparse.sizes.block_linear import BlockLinear
from tvm_sparse.tilings.block_row_linear import BLOCK_ROW_LINEAR_FAMILY


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
    form = int(attrs["bits"]), int(attrs["block"]), str(attrs["activations"])
    return BlockLinear(rows, n, k, *form)


def float_matmul(call: relax.Call) -> relax.Call:
    """Return a `block_matmul` as a product by the floats that its weight stands for."""
    weight = relax.const(block_codes_of(call).to_dense().T.copy())
    return relax.op.matmul(call.args[0], weight)


def block_row_linear(
    x: relax.Expr, packed: GroupedBlocks, problem: BlockLinear, tiling: Mapping[str, Any]
) -> relax.Call:
    """Multiply rows by a packed weight of few bits.

    Parameters
    ----------
    x : relax.Expr
        Panels of one lane, ``[rows, in_channels, 1]``.
    packed : GroupedBlocks
        The weight.
    problem : BlockLinear
        The sizes.
    tiling : mapping
        The fields of the `BlockRowTiling`.
    """
    arrays = [relax.const(packed.codes), relax.const(packed.scales)]
    operator = BLOCK_ROW_LINEAR
    if packed.zeros is not None:
        arrays.append(relax.const(packed.zeros))
        operator = ZEROS_ROW_LINEAR
    fields = {"bits": problem.bits, "block": problem.block, "activations": problem.activations}
    return operator.call(x, *arrays, channels=problem.n, **fields, **tiling_attributes(tiling))


def _infer_matmul(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    n, _ = known_shape(BLOCK_MATMUL.operand(call, "codes"))
    shape = list(BLOCK_MATMUL.operand(call, "x").ty.shape)
    return relax.TensorType([*shape[:-1], n], "float32")


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    rows, _, lanes = known_shape(call.args[0])
    return tensor_type(rows, int(call.attrs["channels"]), lanes)


def _kernel(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    rows, k, _ = known_shape(call.args[0])
    attrs = call.attrs
    form = int(attrs["bits"]), int(attrs["block"]), str(attrs["activations"])
    problem = BlockLinear(rows, int(attrs["channels"]), k, *form)
    tiling, dots = tiling_for(call, BLOCK_ROW_LINEAR_FAMILY), row_dots(cpu)
    if dots is None:
        raise ValueError(f"no kernel of few bits runs on {cpu.name}")
    scales = str(BLOCK_ROW_LINEAR.operand(call, "scales").ty.dtype)
    has_zeros = is_call_to(call, ZEROS_ROW_LINEAR.name)
    return schedules.block_row_linear(
        problem, tiling, epilogue_of(call), dots, scales, has_zeros=has_zeros
    )


def _rows(name: str, *operands: str) -> Operator:
    return Operator(
        PREFIX + name,
        ("x", *operands),
        EPILOGUE_OPERANDS,
        infer=_infer,
        kernel=_kernel,
        with_epilogue=True,
    )


BLOCK_MATMUL = Operator(
    PREFIX + "block_matmul", ("x", "codes", "scales", "zeros"), infer=_infer_matmul
)
BLOCK_ROW_LINEAR = _rows("block_row_linear", "codes", "scales")
ZEROS_ROW_LINEAR = _rows("zeros_row_linear", "codes", "scales", "zeros")
BLOCK_OPERATORS = (BLOCK_MATMUL, BLOCK_ROW_LINEAR, ZEROS_ROW_LINEAR)
ROW_KERNELS = (BLOCK_ROW_LINEAR.name, ZEROS_ROW_LINEAR.name)
"""The names in Relax of the kernels, which take panels of one lane."""
