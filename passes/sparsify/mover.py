"""The frame of the passes that move operators to panels.

Their rules share the operands of the rule and many steps, so each rule is an object at one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls


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


def move_all(mod: tvm.IRModule, cpu: CpuProfile, mover: type[Mover]) -> tvm.IRModule:
    """Return `mod` with a rule applied to every call, in the order of execution."""
    mod = rewrite_calls(mod, lambda *context: mover(cpu, *context).move())
    return relax.transform.CanonicalizeBindings()(mod)
