"""LowerRegions: tensor_column(p) => call_tir of one PrimFunc

The functions of `FormRegions` become functions of `tvm_sparse.schedules.tensor_column`. Regions of
the same structure and plan share a function, which is emitted once.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import StructuralKey, structural_equal, structural_hash

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.shapes import known_size, lowered
from tvm_sparse.passes.ir.structure import structure_of
from tvm_sparse.passes.regions.form_regions import REGION
from tvm_sparse.passes.regions.plan_for_hints import HINTS, hints_of
from tvm_sparse.passes.regions.region_graph import build_region, inputs_of
from tvm_sparse.schedules.tensor_column import Region, tensor_column


@tvm.transform.module_pass(opt_level=0, name="LowerRegions")
class LowerRegions:
    """Make a scheduled PrimFunc of every region."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without region functions."""
        lowered = _Lowered(mod, self.cpu)
        functions = {
            gvar: lowered.visit_expr(func) if isinstance(func, relax.Function) else func
            for gvar, func in mod.functions_items()
            if gvar not in lowered.regions
        }
        return tvm.IRModule(functions | lowered.prim_funcs(), attrs=mod.attrs)


@mutator
class _Lowered(PyExprMutator):
    """Turns the regions of a module into PrimFuncs, and calls of them into `call_tir`."""

    def __init__(self, mod: tvm.IRModule, cpu: CpuProfile) -> None:
        super().__init__(mod)
        self.cpu = cpu
        self.regions = {
            gvar: func
            for gvar, func in mod.functions_items()
            if isinstance(func, relax.Function) and func.attrs and REGION in func.attrs
        }
        self._lowered: dict[int, list[tuple[tvm.ir.GlobalVar, tvm.tirx.PrimFunc]]] = {}
        self._emitted: dict[StructuralKey, tuple[tvm.ir.GlobalVar, Region]] = {}

    def prim_funcs(self) -> dict[tvm.ir.GlobalVar, tvm.tirx.PrimFunc]:
        """Return the PrimFuncs that are called."""
        return dict(pair for alike in self._lowered.values() for pair in alike)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if call.op not in self.regions:
            return call
        func = self.regions[call.op]
        *bindings, last = (b for block in func.body.blocks for b in block.bindings)
        results = list(last.value.fields) if isinstance(last.value, relax.Tuple) else [last.value]
        made = [binding.var for binding in bindings]
        outputs = tuple(made.index(var) for var in results)
        attrs = func.attrs[REGION]
        parts = [attrs[name] for name in ("column_rows", "step_rows", "overlap", "images")]
        key = structure_of(bindings, outputs, parts, func.attrs.get(HINTS))
        if key not in self._emitted:
            self._emitted[key] = self._emit(call.op, func, bindings, outputs)
        gvar, region = self._emitted[key]
        named = dict(zip(func.params, call.args, strict=True))
        panels, others = inputs_of(bindings, region)
        given = [named.get(value, value) for value in (*panels, *others)]
        types = [var.ty for var in results]
        given += [lowered(size) for size in region.sizes]
        return relax.call_tir(gvar, given, types if len(types) > 1 else types[0])

    def _emit(
        self,
        gvar: tvm.ir.GlobalVar,
        func: relax.Function,
        bindings: Sequence[relax.VarBinding],
        outputs: tuple[int, ...],
    ) -> tuple[tvm.ir.GlobalVar, Region]:
        """Return the variable of the PrimFunc of a region, and the region."""
        attrs = func.attrs[REGION]
        rows, step_rows = int(attrs["column_rows"]), int(attrs["step_rows"])
        plan = ColumnPlan(rows, step_rows, attrs["overlap"])
        with hints_of(func):
            region = build_region(bindings, outputs, known_size(attrs["images"]), self.cpu)
            if region is None:
                raise ValueError(f"not a region: {func}")
            built = tensor_column(region, plan, self.cpu.cores)
        return self._share(gvar, built), region

    def _share(self, gvar: tvm.ir.GlobalVar, func: tvm.tirx.PrimFunc) -> tvm.ir.GlobalVar:
        """Return the variable of a function like this one, or name it `gvar`."""
        alike = self._lowered.setdefault(structural_hash(func), [])
        for known, other in alike:
            if structural_equal(func, other):
                return known
        own = relax.BlockBuilder().add_func(func, gvar.name_hint)  # It gives the variable a type.
        alike.append((own, func))
        return own
