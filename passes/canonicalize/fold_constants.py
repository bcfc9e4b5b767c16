"""f(c) => the constant that f computes: whatever TVM can fold

TVM's `FoldConstant` lowers every operator that it sees before it asks whether all operands are
constants. So it gets only those that read nothing but constants.

Runs after `ComputeConstants`, which computes the calls that most networks have.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax


@tvm.transform.module_pass(opt_level=0, name="FoldConstants")
class FoldConstants:
    """Replace calls that read nothing but constants by constants."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without calls that TVM can compute."""
        functions = {g: f for g, f in mod.functions_items() if isinstance(f, relax.Function)}
        if any(map(_has_branches, functions.values())):
            return relax.transform.FoldConstant()(mod)
        folded = mod.clone()
        for gvar, function in functions.items():
            part = _constant_part(function)
            if any(isinstance(binding.value, relax.Call) for binding in part):
                folded[gvar] = _folded(function, part)
        return relax.transform.CanonicalizeBindings()(folded)


def _has_branches(function: relax.Function) -> bool:
    """Return whether a binding of a function holds bindings of its own."""
    return any(
        isinstance(binding.value, relax.If | relax.Function | relax.SeqExpr)
        for block in function.body.blocks
        for binding in block.bindings
    )


def _constant_part(function: relax.Function) -> list[relax.VarBinding]:
    """Return the bindings that read nothing but constants, by way of variables, too."""
    part: list[relax.VarBinding] = []
    known: set[relax.Var] = set()
    for block in function.body.blocks:
        for binding in block.bindings:
            reads = relax.analysis.free_vars(binding.value)
            if isinstance(binding, relax.VarBinding) and known.issuperset(reads):
                part.append(binding)
                known.add(binding.var)
    return part


def _folded(function: relax.Function, part: Sequence[relax.VarBinding]) -> relax.Function:
    """Return a function in which a part of the bindings is computed as far as TVM can."""
    variables = [binding.var for binding in part]
    result = relax.Var("result", relax.TupleType([var.ty for var in variables]))
    block = relax.DataflowBlock([*part, relax.VarBinding(result, relax.Tuple(variables))])
    alone = relax.Function([], relax.SeqExpr([block], result), result.ty)
    alone = relax.transform.FoldConstant()(tvm.IRModule({"main": alone}))["main"]
    values = dict(zip(variables, alone.body.blocks[0].bindings[-1].value.fields, strict=True))

    def computed(binding: relax.Binding) -> relax.Binding:
        value = values.get(binding.var)
        if isinstance(value, tvm.ir.GenericConst):
            return relax.VarBinding(binding.var, value)
        return binding

    blocks = [
        type(block)([computed(binding) for binding in block.bindings])
        for block in function.body.blocks
    ]
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(
        function.params, body, function.ret_ty, function.is_pure, function.attrs, function.span
    )
