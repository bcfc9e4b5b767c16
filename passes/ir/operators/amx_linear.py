"""Dense linear layers on the matrix unit AMX: ``activation(W x + bias + residual)`` in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.epilogue import epilogue_of, tiling_attributes, tiling_for
from tvm_sparse.passes.ir.operators.layouts import panels_of
from tvm_sparse.passes.ir.operators.linear import infer_linear
from tvm_sparse.passes.ir.operators.operator import EPILOGUE_OPERANDS, PREFIX, Operator
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.tilings.amx_linear import AMX_LINEAR_FAMILY


def amx_linear(
    x: relax.Expr, weight: relax.Expr, channels: int, tiling: Mapping[str, Any] | None = None
) -> relax.Call:
    """Multiply float16 panels by a packed dense weight.

    Parameters
    ----------
    x : relax.Expr
        Panels, ``[rows, in_channels, lanes]``, float16.
    weight : relax.Expr
        The result of `tvm_sparse.formats.amx.pack_amx_linear`.
    channels : int
        Output channels.
    tiling : mapping, optional
        The fields of an `AmxLinearTiling`; the cost model chooses one if there are none.
    """
    return AMX_LINEAR.call(x, weight, channels=channels, **tiling_attributes(tiling or {}))


def _amx_linear(call: relax.Call, images: int, cpu: CpuProfile) -> Stage:
    x, n = panels_of(AMX_LINEAR.operand(call, "x"), images), int(call.attrs["channels"])
    epilogue, tiling = epilogue_of(call), tiling_for(call, AMX_LINEAR_FAMILY)
    return schedules.AmxLinear(x, n, epilogue, cpu, tiling)


AMX_LINEAR = Operator(
    PREFIX + "amx_linear",
    ("x", "weight"),
    EPILOGUE_OPERANDS,
    infer=infer_linear,
    stage=_amx_linear,
    takes_sizes=True,
    with_epilogue=True,
)
