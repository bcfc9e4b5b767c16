"""PackExpertWeights: expert_linear(x, e, w) => expert_linear(x, e, pack(w))

The weights of all experts are packed in tiles that follow one another, as one tall matrix. Pruned
ones are packed sparse if the product is expected to be faster then. Those of few bits stay so where
the processor has a kernel for them, and become floats elsewhere. Every decision is added to the
module attribute ``tvm_sparse.layers``.

Runs after `SparsifyWeights`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.formats.density import density_of
from tvm_sparse.formats.groups import GROUP
from tvm_sparse.formats.rows import pack_rows, tile_channels
from tvm_sparse.formats.windows import WindowSparse
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.sparsify.decisions import decision, with_decisions
from tvm_sparse.passes.sparsify.pack_block_weights import best_packed
from tvm_sparse.schedules.emit.windows import WINDOW_ARRAYS
from tvm_sparse.sizes import block_linear
from tvm_sparse.sizes.block_linear import BlockLinear
from tvm_sparse.sizes.expert_linear import ExpertLinear
from tvm_sparse.tilings.block_forms import block_rows_family
from tvm_sparse.tilings.block_rows import BLOCK_ROW_LINEAR_FAMILY
from tvm_sparse.tilings.choice import Choice, choose
from tvm_sparse.tilings.expert_linear import (
    MOST_ROWS,
    dense_cycles,
    expert_tiling,
    refusal,
    sparse_cycles,
    sparse_expert_tiling,
)
from tvm_sparse.tilings.layer import Layer

_log = logging.getLogger("tvm_sparse")


@tvm.transform.module_pass(opt_level=0, name="PackExpertWeights")
class PackExpertWeights:
    """Pack the weights of every layer of experts."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its experts packed."""
        decisions: list[dict[str, Any]] = []

        def pack(call: relax.Call, name: str, _emit: Emit) -> relax.Expr | None:
            if is_call_to(call, operators.BLOCK_EXPERTS.name):
                reason = _no_kernel_of_few_bits(call, self.cpu)
                if not reason:
                    decided, product = _packed_few_bits(call, name, self.cpu)
                    decisions.append(decided)
                    return product
                _log.warning("%s reads its weights of few bits as float32: %s", name, reason)
                call = _as_floats(call)
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

        return with_decisions(rewrite_layers(mod, pack), decisions)


def _one_expert(call: relax.Call) -> tuple[ExpertLinear, BlockCodes, BlockLinear]:
    """Return a layer of few bits, its weights, and the layer of a few rows of one expert."""
    problem, weight = operators.expert_linear_of(call), operators.expert_codes_of(call)
    rows = min(problem.of_one_expert.rows, MOST_ROWS)
    codes = weight.bits, weight.block, str(call.attrs["activations"])
    return problem, weight, BlockLinear(rows, problem.n, problem.k, *codes)


def _no_kernel_of_few_bits(call: relax.Call, cpu: CpuProfile) -> str:
    return BLOCK_ROW_LINEAR_FAMILY.refusal(Layer(_one_expert(call)[2]), cpu)


def _as_floats(call: relax.Call) -> relax.Call:
    problem, weight, _ = _one_expert(call)
    dense = weight.to_dense().reshape(problem.experts, problem.n, problem.k)
    x, of, *_ = call.args
    return operators.expert_linear(x, of, [relax.const(dense)], problem)


def _packed_few_bits(
    call: relax.Call, name: str, cpu: CpuProfile
) -> tuple[dict[str, Any], relax.Call]:
    """Return what was decided for a layer of few bits, and its product by packed weights."""
    problem, weight, one = _one_expert(call)
    tall = weight.stacked(problem.experts, GROUP)
    all_of_them, packed = best_packed(tall, replace(one, n=tall.shape[0]), cpu)
    family, density = block_rows_family(all_of_them.form), weight.density
    of_one = replace(one, form=all_of_them.form, steps=all_of_them.steps // problem.experts)
    layer = Layer(of_one, density)
    tiling = family.default(layer, cpu)
    of_all = replace(of_one, rows=min(problem.rows, block_linear.MOST_ROWS))
    jobs = family.default(Layer(of_all, density), cpu).jobs
    tiling = replace(tiling, jobs=max(tiling.jobs, jobs))
    x, of, *_ = call.args
    product = operators.packed_block_experts(x, of, packed, all_of_them, problem, asdict(tiling))
    cycles = problem.active * family.cycles(layer, tiling, cpu)
    bits = 8 * packed.nbytes / weight.codes.size
    decided = decision(
        name,
        (problem.experts, problem.n, problem.k),
        density,
        f"{family.name}_of_experts",
        f"{1 - density:.0%} zeros: {bits:.2f} bits a weight",
        cycles / (cpu.cores * cpu.memory_system.clock_hz),
        precision=of_one.activations,
    )
    return decided, product


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
    threads = min(tiling.jobs, cpu.cores)
    return decision(
        name,
        (problem.experts, problem.n, problem.k),
        density,
        "sparse_expert_linear" if choice.sparse else "expert_linear",
        choice.reason,
        choice.cycles / (threads * cpu.memory_system.clock_hz),
        is_refused=choice.is_refused,
    )
