"""Linear layers of experts whose weights have few bits, as a model holds them and packed.

`PackExpertWeights` makes kernels of them, or layers of floats where there are none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.blocks import BlockCodes
from tvm_sparse.passes.ir.operators.block_rows import BLOCK_ROWS, PackedBlocks, packed_operands
from tvm_sparse.passes.ir.operators.epilogue import tiling_attributes
from tvm_sparse.passes.ir.operators.expert_linear import expert_linear_of
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator
from tvm_sparse.schedules.operators.packed_experts import packed_experts
from tvm_sparse.sizes.block_linear import BlockLinear
from tvm_sparse.sizes.expert_linear import ExpertLinear

_KIND = "_of_experts"


def block_experts(
    x: relax.Expr,
    experts_of: relax.Expr,
    weight: BlockCodes,
    problem: ExpertLinear,
    activations: str,
) -> relax.Call:
    """Multiply each row by the weight of its expert.

    Parameters
    ----------
    x, experts_of
        As `expert_linear` takes them.
    weight : BlockCodes
        The weights of all experts one below the other, ``(experts * N, K)``.
    problem : ExpertLinear
        The sizes.
    activations : str
        What kernels of few bits may round `x` to, as in `BlockLinear`.
    """
    arrays = (relax.const(array) for array in (weight.codes, weight.scales, weight.zeros))
    fields = {"bits": weight.bits, "block": weight.block, "activations": activations}
    attrs = {**dataclasses.asdict(problem), **fields}
    return BLOCK_EXPERTS.call(x, experts_of, *arrays, **attrs)


def expert_codes_of(call: relax.Call) -> BlockCodes:
    """Return the weights of a call of `block_experts`."""
    codes, scales, zeros = (
        BLOCK_EXPERTS.operand(call, name).value.numpy() for name in ("codes", "scales", "zeros")
    )
    return BlockCodes(codes, scales, zeros, int(call.attrs["bits"]), int(call.attrs["block"]))


def packed_block_experts(
    x: relax.Expr,
    experts_of: relax.Expr,
    packed: PackedBlocks,
    one: BlockLinear,
    problem: ExpertLinear,
    tiling: Mapping[str, Any],
) -> relax.Call:
    """Multiply each row by the packed weight of its expert.

    Parameters
    ----------
    x, experts_of
        As `expert_linear` takes them.
    packed : GroupedBlocks, PairBlocks, SlidingBlocks or BitmapBlocks
        The weights of all experts, each of which has whole groups.
    one : BlockLinear
        The layer of a few rows of one expert, with the output channels of all of them.
    problem : ExpertLinear
        The sizes.
    tiling : mapping
        The fields of the tiling of the form's family.
    """
    base, operands = packed_operands(packed, one)
    fields = {**dataclasses.asdict(one), "form": str(one.form)}
    attrs = {**dataclasses.asdict(problem), **tiling_attributes(tiling)}
    return _PACKED[base.name].call(x, experts_of, *operands, problem=fields, **attrs)


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    problem = expert_linear_of(call)
    return relax.TensorType((problem.rows, problem.n), "float32")


def _of_experts(base: Operator) -> Operator:
    """Return the operator of experts for one that multiplies a few rows."""
    make: Any = base.kernel

    def kernel(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
        problem = expert_linear_of(call)

        def frame(
            name: str, one: BlockLinear, product: Any, jobs: int, _epilogue: Any
        ) -> tvm.tirx.PrimFunc:
            return packed_experts(name + _KIND, problem, product, one.rows, jobs)

        # As a call of the operator for rows, whose operands do not have the experts.
        alone = relax.Call(call.op, [call.args[0], *call.args[2:]], call.attrs)
        return make(alone, cpu, frame=frame)

    return Operator(
        base.name + _KIND, ("x", "experts_of", *base.operands[1:]), infer=_infer, kernel=kernel
    )


BLOCK_EXPERTS = Operator(
    PREFIX + "block_experts", ("x", "experts_of", "codes", "scales", "zeros"), infer=_infer
)
_PACKED = {base.name: _of_experts(base) for base in BLOCK_ROWS}
PACKED_BLOCK_EXPERTS = tuple(_PACKED.values())
