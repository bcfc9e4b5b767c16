"""PackRecurrentWeights: recurrent(xw, r) => recurrent(xw, pack(r))

The recurrent weight is packed for the processor: the rows of all gates of a tile of hidden units
lie together. A pruned weight is packed sparse if the product is expected to be faster then. A
weight that is no constant is packed whenever the model runs. Every decision about a constant one is
added to the module attribute ``tvm_sparse.layers``.

Runs after `SparsifyWeights`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.density import density_of
from tvm_sparse.formats.recurrent import pack_recurrent, tile_rows
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.sparsify.decisions import decision, with_decisions
from tvm_sparse.schedules.operators.recurrent_rounding import pack_recurrent_words
from tvm_sparse.sizes.recurrent import Recurrent
from tvm_sparse.tilings.choice import Choice, choose
from tvm_sparse.tilings.recurrent import (
    RecurrentTiling,
    dense_cycles,
    has_word_kernel,
    recurrent_tiling,
    shared,
    sparse_cycles,
    sparse_format,
    sparse_recurrent_tiling,
)

MOST_DENSE = 0.6
"""Density above which packing a sparse weight is not worth the time: it never wins there."""


@tvm.transform.module_pass(opt_level=0, name="PackRecurrentWeights")
class PackRecurrentWeights:
    """Pack the recurrent weight of every LSTM, GRU and RNN."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its recurrent weights packed."""
        decisions: list[dict[str, Any]] = []

        def pack(call: relax.Call, name: str, emit: Emit) -> relax.Expr | None:
            if not is_call_to(call, operators.RECURRENT.name) or "tiling" in call.attrs:
                return None
            problem, operands = operators.recurrent_of(call), operators.recurrent_operands(call)
            weight = operands.pop("r")
            packed = None
            if isinstance(weight, tvm.ir.GenericConst):
                packed = _Sparse.of(problem, weight.value.numpy(), self.cpu)
                decisions.append(packed.decision(name, self.cpu))
            if packed is not None and packed.tiling is not None:
                return operators.recurrent(problem, operands | packed.operands, packed.tiling)
            tiling = recurrent_tiling(problem, self.cpu)
            if packed is not None and has_word_kernel(problem, self.cpu):
                integers = weight.value.numpy()
                (rows,) = _rows(problem, tiling)
                arrays = pack_recurrent_words(integers, rows, self.cpu)
                operands |= {name: relax.const(array) for name, array in arrays.items()}
                return operators.recurrent(problem, operands, tiling)
            for number, rows in enumerate(_rows(problem, tiling)):
                operands[f"weight{number}"] = _packed(weight, rows, emit)
            return operators.recurrent(problem, operands, tiling)

        return with_decisions(rewrite_layers(mod, pack), decisions)


@dataclass(frozen=True)
class _Sparse:
    """A constant recurrent weight, packed sparse if that is worth it."""

    problem: Recurrent
    density: float
    choice: Choice
    tiling: RecurrentTiling | None
    operands: dict[str, relax.Expr]

    @staticmethod
    def of(problem: Recurrent, weight: NDArray[np.float32], cpu: CpuProfile) -> _Sparse:
        density = density_of(weight)
        times = problem.steps * problem.directions
        tiling = sparse_recurrent_tiling(problem, cpu)
        dense = times * dense_cycles(problem, recurrent_tiling(problem, cpu).width, cpu)
        packing = sparse_format(cpu)
        if packing is None or isinstance(tiling, str):
            return _Sparse(problem, density, Choice(False, str(tiling), math.inf, dense), None, {})
        if density > MOST_DENSE:
            reason = f"{1 - density:.0%} zeros are too few for the sparse kernel"
            return _Sparse(problem, density, Choice(False, reason, dense, dense), None, {})
        operands, vectors, size = {}, 0.0, 0.0
        for number, rows in enumerate(_rows(problem, tiling)):
            arrays = vars(packing.from_dense(weight, rows))
            vectors += math.prod(arrays["values"].shape[:2]) / problem.directions
            size += sum(array.nbytes for array in arrays.values()) / problem.directions
            for name, array in arrays.items():
                operands[f"{name}{number}"] = relax.const(array)

        def cycles_of(batch: int) -> float:
            return sparse_cycles(dataclasses.replace(problem, batch=batch), vectors, size, cpu)

        choice = choose(density, times * cycles_of(problem.batch), dense)
        if not choice.sparse:
            return _Sparse(problem, density, choice, None, {})
        tiling = shared(tiling, problem, cycles_of, size, cpu)
        return _Sparse(problem, density, choice, tiling, operands)

    def kernel(self, cpu: CpuProfile) -> str:
        """Return the name of the kernel."""
        if self.choice.sparse:
            return "sparse_recurrent"
        return "int8_recurrent" if has_word_kernel(self.problem, cpu) else "recurrent"

    def decision(self, name: str, cpu: CpuProfile) -> dict[str, Any]:
        """Return the entry of the module attribute that lists the decisions about layers."""
        problem, choice = self.problem, self.choice
        tiling = self.tiling or recurrent_tiling(problem, cpu)
        threads = min(problem.directions * tiling.jobs * tiling.groups, cpu.cores)
        return decision(
            name,
            (problem.directions, problem.gates * problem.hidden, problem.hidden),
            self.density,
            self.kernel(cpu),
            choice.reason,
            choice.cycles / (threads * cpu.memory_system.clock_hz),
            is_refused=choice.is_refused,
        )


def _rows(problem: Recurrent, tiling: RecurrentTiling) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of the weight that the tiles of each section hold."""
    for gates, vectors in zip(problem.sections, tiling.vectors, strict=True):
        yield tile_rows(gates, problem.hidden, tiling.width, vectors)


def _packed(weight: relax.Expr, rows: NDArray[np.intp], emit: Emit) -> relax.Expr:
    if isinstance(weight, tvm.ir.GenericConst):
        return relax.const(pack_recurrent(weight.value.numpy(), rows))
    taken = emit(relax.op.take(weight, relax.const(rows.reshape(-1).astype("int64")), axis=1))
    directions, _, hidden = (int(extent) for extent in weight.ty.shape)
    split = emit(relax.op.reshape(taken, (directions, *rows.shape, hidden)))
    return emit(relax.op.permute_dims(split, [0, 1, 4, 2, 3]))
