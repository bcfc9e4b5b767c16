"""PackExpertWeights: expert_linear(x, e, w) => expert_linear(x, e, pack(w))

The weights of all experts are packed in tiles that follow one another, as one tall matrix. Pruned
ones are packed sparse if the product is expected to be faster then. Every decision is added to the
module attribute ``tvm_sparse.layers``.

Runs after `SparsifyWeights`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.density import density_of
from tvm_sparse.formats.rows import pack_rows, tile_channels
from tvm_sparse.formats.windows import WindowSparse
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.sparsify.sparsify_weights import LAYERS
from tvm_sparse.schedules.emit.windows import WINDOW_ARRAYS
from tvm_sparse.sizes.expert_linear import ExpertLinear
from tvm_sparse.tilings.choice import Choice, choose
from tvm_sparse.tilings.expert_linear import (
    dense_cycles,
    expert_tiling,
    refusal,
    sparse_cycles,
    sparse_expert_tiling,
)


@tvm.transform.module_pass(opt_level=0, name="PackExpertWeights")
class PackExpertWeights:
    """Pack the weights of every layer of experts."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its experts packed."""
        decisions = list(mod.attrs[LAYERS]) if mod.attrs and LAYERS in mod.attrs else []

        def pack(call: relax.Call, name: str, _emit: Emit) -> relax.Expr | None:
            if not is_call_to(call, operators.EXPERT_LINEAR.name) or "tiling" in call.attrs:
                return None
            problem, (x, of, weight) = operators.expert_linear_of(call), call.args
            array = weight.value.numpy()
            density = density_of(array)
            choice = _choose(problem, density, self.cpu)
            decisions.append(_decision(problem, density, choice, name, self.cpu))
            if not choice.sparse:
                tiling = expert_tiling(problem, self.cpu)
                packed = np.concatenate([pack_rows(matrix, tiling.units) for matrix in array])
                return operators.expert_linear(x, of, [relax.const(packed)], problem, tiling)
            tiling = sparse_expert_tiling(problem, density, self.cpu)
            channels = tile_channels(problem.n, tiling.units)
            first = (np.arange(problem.experts) * problem.n)[:, None, None]
            tiles = (first + channels).reshape(-1, tiling.vectors, tiling.width)
            stacked = array.reshape(1, problem.experts * problem.n, problem.k)
            arrays = vars(WindowSparse.from_dense(stacked, tiles))
            weights = [relax.const(arrays[part]) for part in WINDOW_ARRAYS]
            return operators.expert_linear(x, of, weights, problem, tiling)

        return rewrite_layers(mod, pack).with_attr(LAYERS, decisions)


def _choose(problem: ExpertLinear, density: float, cpu: CpuProfile) -> Choice:
    dense, reason = dense_cycles(problem, cpu), refusal(problem, cpu)
    if reason:
        return Choice(False, reason, math.inf, dense)
    return choose(density, sparse_cycles(problem, density, cpu), dense)


def _decision(
    problem: ExpertLinear, density: float, choice: Choice, name: str, cpu: CpuProfile
) -> dict[str, Any]:
    """Return the entry of the module attribute that lists the decisions about layers."""
    tiling = (
        sparse_expert_tiling(problem, density, cpu)
        if choice.sparse
        else expert_tiling(problem, cpu)
    )
    cycles = choice.sparse_cycles if choice.sparse else choice.dense_cycles
    threads = min(tiling.jobs, cpu.cores)
    return {
        "layer": name,
        "shape": [problem.experts, problem.n, problem.k],
        "density": density,
        "kernel": "sparse_expert_linear" if choice.sparse else "expert_linear",
        "reason": choice.reason,
        "is_refused": choice.sparse_cycles == math.inf,
        "seconds": cycles / (threads * cpu.memory_system.clock_hz),
    }
