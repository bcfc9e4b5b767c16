"""ApplyDefaultSchedule: loop nests => parallel, vectorized loop nests

This schedules every PrimFunc that is not one of our kernels. TVM would compile these as they are,
one scalar iteration after the other. The pass runs after the last lowering and fusion. It marks the
functions that it has scheduled with ``tirx.is_scheduled``.
"""

from __future__ import annotations

import tvm
from tvm import tirx

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.default.default import default_schedule
from tvm_sparse.schedules.default.natural_divisions import with_natural_divisions
from tvm_sparse.schedules.default.special_values import keep_special_values


@tvm.transform.module_pass(opt_level=0, name="ApplyDefaultSchedule")
class ApplyDefaultSchedule:
    """Schedule the PrimFuncs that are not scheduled yet."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with all its PrimFuncs scheduled."""
        functions = {gvar: self._schedule(func) for gvar, func in mod.functions_items()}
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)

    def _schedule(self, func: tvm.ir.BaseFunc) -> tvm.ir.BaseFunc:
        if not isinstance(func, tirx.PrimFunc) or func.attrs.get("tirx.is_scheduled"):
            return func
        scheduled = default_schedule(keep_special_values(func), self.cpu)
        return with_natural_divisions(scheduled).with_attr("tirx.is_scheduled", True)
