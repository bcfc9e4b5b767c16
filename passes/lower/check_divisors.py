"""CheckDivisors: a / b => assert b != 0; a / b, for integers that are known at run time only

A processor ends the process at an integer division by zero, and at that of the smallest integer by
-1. The functions with such divisions keep their plain loops; they raise an error at a zero, and
negate instead of dividing by -1.

Runs after `relax.transform.LegalizeOps`, before functions are fused.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm_ffi import structural_map, structural_walk

DIVISIONS = (tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod)
OPAQUE = 8
"""The pattern of operators that TVM fuses with no other."""


@tvm.transform.module_pass(opt_level=0, name="CheckDivisors")
class CheckDivisors:
    """Check the divisors of integer divisions before they divide."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its integer divisions checked."""
        functions = {gvar: _checked(func) for gvar, func in mod.functions_items()}
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _checked(func: tvm.ir.BaseFunc) -> tvm.ir.BaseFunc:
    if not isinstance(func, tirx.PrimFunc) or (func.attrs or {}).get("tirx.is_scheduled"):
        return func
    body = structural_map(func.body, (s_tir.SBlock, _check_block))
    if body.same_as(func.body):
        return func
    checked = func.with_body(body).with_attr("tirx.is_scheduled", True)
    return checked.with_attr("op_pattern", OPAQUE)


def _check_block(block: s_tir.SBlock) -> s_tir.SBlock:
    store = block.body
    if not isinstance(store, tirx.BufferStore) or block.init is not None:
        return block
    checks: list[tirx.Stmt] = []
    value = store.value

    def check(division: tvm.ir.Expr) -> tvm.ir.Expr:
        if not _is_unknown(division):
            return division
        kind = tvm.ir.StringImm("ValueError")
        message = tvm.ir.StringImm("an integer was divided by zero")
        # TVM 0.27 hands these arguments on in this order, whatever their names say.
        not_zero = tirx.NE(division.b, tirx.const(0, division.ty.dtype))
        checks.append(tirx.AssertStmt(not_zero, kind, [message]))
        return _without_overflow(division)

    for division in DIVISIONS:
        value = structural_map(value, (division, check))
    if not checks:
        return block
    fields = (block.iter_vars, block.reads, block.writes, block.name_hint)
    body = tirx.stmt_seq(*checks, tirx.BufferStore(store.buffer, value, store.indices))
    rest = (block.alloc_buffers, block.match_buffers, block.annotations)
    return s_tir.SBlock(*fields, body, None, *rest)


def _is_unknown(division: tvm.ir.Expr) -> bool:
    """Whether a division is one of integers by what is known at run time only."""
    loads: list[tvm.ir.TensorLoad] = []
    structural_walk(division.b, (tvm.ir.TensorLoad, loads.append))
    return "int" in str(division.ty.dtype) and bool(loads)


def _without_overflow(division: tvm.ir.Expr) -> tvm.ir.Expr:
    """Return the division of integers, in which no division by -1 is left."""
    dtype = str(division.ty.dtype)
    if dtype.startswith("u"):
        return division
    zero, one, minus_one = (tirx.const(number, dtype) for number in (0, 1, -1))
    negates = tirx.EQ(division.b, minus_one)
    divided = type(division)(division.a, tirx.Select(negates, one, division.b))
    is_quotient = isinstance(division, tirx.Div | tirx.FloorDiv)
    return tirx.Select(negates, zero - division.a if is_quotient else zero, divided)
