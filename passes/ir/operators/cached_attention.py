"""Attention of new tokens to caches of keys and values, which a call extends in place.

The caches are memory of sessions, of which a call gets the addresses. The state says to which
sequence a token belongs, and at which position it stands. No size depends on either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, tensor_type
from tvm_sparse.passes.ir.shapes import known_shape
from tvm_sparse.sizes.cached_attention import CachedAttention


def cached_attention(problem: CachedAttention, operands: Mapping[str, relax.Expr]) -> relax.Call:
    """Append the keys and values of new tokens to caches, and attend to all that they hold.

    Parameters
    ----------
    problem : CachedAttention
        The sizes.
    operands : mapping of str to relax.Expr
        ``qkv``, or ``q``, ``k`` and ``v``, of shape ``(1, tokens, channels)``; ``cos`` and ``sin``
        of shape ``(positions, rotated / 2)`` if the operator rotates; ``sinks`` and
        ``slopes`` of shape ``(heads,)`` if it has any; ``places`` int64 ``(2, tokens)``, the
        addresses of the caches of keys and of values of each sequence; ``state`` int32
        ``(tokens, STATE_COLUMNS)``.

    Returns
    -------
    relax.Call
        The result ``(1, tokens, heads * head_dim)``.
    """
    attrs = {**dataclasses.asdict(problem), "scale": repr(problem.scale)}
    attrs |= {"softcap": repr(problem.softcap), "operands": list(operands)}
    return relax.Call(
        tvm.ir.Op.get(PREFIX + "cached_attention"),
        list(operands.values()),
        tvm.ir.DictAttrs(attrs),
    )


def problem_of(call: relax.Call) -> CachedAttention:
    """Return the sizes of a call."""
    kinds: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": float}
    return CachedAttention(
        **{
            field.name: kinds[str(field.type)](call.attrs[field.name])
            for field in dataclasses.fields(CachedAttention)
        }
    )


def operands_of(call: relax.Call) -> dict[str, relax.Expr]:
    """Return the operands of a call by name."""
    return dict(zip((str(name) for name in call.attrs["operands"]), call.args, strict=True))


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    problem = problem_of(call)
    return tensor_type(1, problem.tokens, problem.heads * problem.head_dim)


def _kernel(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    operands = operands_of(call)
    rows = known_shape(operands["cos"])[0] if "cos" in operands else 0
    return schedules.cached_attention(problem_of(call), rows, cpu)


CACHED_ATTENTION = Operator(PREFIX + "cached_attention", infer=_infer, kernel=_kernel)
