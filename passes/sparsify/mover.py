"""The frame of the passes that move operators to panels.

Their rules share the operands of the rule and many steps, so each rule is an object at one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.view_chains import RESHAPING


@dataclass(frozen=True)
class Mover(ABC):
    """The rule at one call.

    Attributes
    ----------
    cpu : CpuProfile
        Gives the lanes of new panels.
    call : relax.Call
        The call, whose arguments are already rewritten.
    lookup, emit : callable
        As in `tvm_sparse.passes.ir.rewriting`.
    """

    cpu: CpuProfile
    call: relax.Call
    lookup: Lookup
    emit: Emit

    @abstractmethod
    def move(self) -> relax.Expr | None:
        """Return the expression that takes the place of the call, or None."""


def without_views(value: relax.Expr, lookup: Lookup) -> relax.Expr:
    """Return the tensor above reshapes and transposes, whose elements are those of `value`."""
    while is_call_to(lookup(value), *RESHAPING, "relax.permute_dims"):
        value = lookup(value).args[0]
    return value


def move_all(mod: tvm.IRModule, cpu: CpuProfile, mover: type[Mover]) -> tvm.IRModule:
    """Return `mod` with a rule applied to every call, in the order of execution."""

    def move(*context: Any) -> relax.Expr | None:
        at = mover(cpu, *context)
        if is_call_to(at.call, operators.QUANTIZE_WORDS.name):
            return at.emit(at.call)  # layers share the words of their panels
        return at.move()

    mod = rewrite_calls(mod, move)
    return relax.transform.CanonicalizeBindings()(mod)
