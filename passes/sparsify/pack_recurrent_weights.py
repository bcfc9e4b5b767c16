"""PackRecurrentWeights: recurrent(xw, r) => recurrent(xw, pack(r))

The recurrent weight is packed for the processor: the rows of all gates of a tile of hidden units
lie together. A weight that is no constant is packed whenever the model runs.
"""

from __future__ import annotations

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.recurrent import pack_recurrent, tile_rows
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.tilings.recurrent import recurrent_tiling


@tvm.transform.module_pass(opt_level=0, name="PackRecurrentWeights")
class PackRecurrentWeights:
    """Pack the recurrent weight of every LSTM, GRU and RNN."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its recurrent weights packed."""
        return rewrite_calls(mod, self._pack)

    def _pack(self, call: relax.Call, _lookup: Lookup, emit: Emit) -> relax.Expr | None:
        if not is_call_to(call, operators.RECURRENT.name) or "tiling" in call.attrs:
            return None
        problem, operands = operators.recurrent_of(call), operators.recurrent_operands(call)
        weight = operands.pop("r")
        tiling = recurrent_tiling(problem, self.cpu)
        for number, gates in enumerate(problem.sections):
            rows = tile_rows(gates, problem.hidden, tiling.width, tiling.vectors[number])
            operands[f"weight{number}"] = _packed(weight, rows, emit)
        return operators.recurrent(problem, operands, tiling)


def _packed(weight: relax.Expr, rows: NDArray[np.intp], emit: Emit) -> relax.Expr:
    if isinstance(weight, tvm.ir.GenericConst):
        return relax.const(pack_recurrent(weight.value.numpy(), rows))
    taken = emit(relax.op.take(weight, relax.const(rows.reshape(-1).astype("int64")), axis=1))
    directions, _, hidden = (int(extent) for extent in weight.ty.shape)
    split = emit(relax.op.reshape(taken, (directions, *rows.shape, hidden)))
    return emit(relax.op.permute_dims(split, [0, 1, 4, 2, 3]))
