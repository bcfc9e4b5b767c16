"""FormRegions: f3(f2(f1(p))) => tensor_column(p), a function that runs f1, f2, f3 column by column

Operators that follow one another are cut into the regions with the least sum of expected times.
Between two regions is a cache stop: all rows are written before the next region begins. A region is
a private function, whose attribute `REGION` holds its plan and the prediction. The attribute
`REGIONS` of the module lists all regions with the reasons for their stops.

First, `tvm_sparse.passes.regions.convolve_images` removes the layout changes that convolutions do
not need.

Runs after `FuseEpilogue`; `LowerRegions` makes PrimFuncs of the functions.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import tvm
from tvm import relax

from tvm_sparse.columns.options import ColumnRows, OverlapOption, check_column_options
from tvm_sparse.columns.plans import PlanFor
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.shapes import lowered
from tvm_sparse.passes.regions.convolve_images import convolve_images
from tvm_sparse.passes.regions.plan_for_hints import hints_of, is_more, with_hints_of
from tvm_sparse.passes.regions.region_graph import order_of, runs_of
from tvm_sparse.passes.regions.region_planner import PlannedRegion, RegionPlanner

REGION = "tvm_sparse.region"
"""The attribute of a region's function."""
REGIONS = "tvm_sparse.regions"
"""The attribute of the module."""
PREFIX = "tensor_column"
"""Functions of regions are called ``tensor_column_0``, ``tensor_column_1``, ..."""

Functions: TypeAlias = dict[tvm.ir.GlobalVar, tvm.ir.BaseFunc]


@tvm.transform.module_pass(opt_level=0, name="FormRegions")
class FormRegions:
    """Group operators on panels into regions that are executed as tensor columns.

    Parameters
    ----------
    target : Target or CpuProfile
        The processor.
    column_rows : "auto", "off" or int
        Rows of a column. ``"auto"`` lets the cost model choose them, and ``"off"`` leaves every
        operator by itself. With a number, the regions are those of ``"auto"``.
    overlap : "auto", "recompute" or "carry"
        Whether rows that two steps need are computed again or kept; ``"auto"`` lets the cost model
        choose.
    plan_for : callable, optional
        Returns the measured plan of a region, which replaces the cost model's.
    planner : RegionPlanner, optional
        Cuts runs of operators into regions, in place of one made of the other arguments.

    Raises
    ------
    InputError
        If `column_rows` or `overlap` has another value.
    """

    def __init__(
        self,
        target: tvm.target.Target | CpuProfile,
        column_rows: ColumnRows = "auto",
        overlap: OverlapOption = "auto",
        plan_for: PlanFor | None = None,
        planner: RegionPlanner | None = None,
    ) -> None:
        check_column_options(column_rows, overlap)
        cpu = CpuProfile.of(target)
        self.planner = planner or RegionPlanner(cpu, column_rows, overlap, plan_for)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with its regions as functions of their own."""
        if self.planner.column_rows == "off":
            return mod
        mod = convolve_images(mod)
        functions = dict(mod.functions_items())
        reports: list[dict[str, Any]] = []
        kept: list[dict[str, Any]] = []
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                known, first = set(functions), len(reports)
                with hints_of(func):
                    functions[gvar] = self._transform(func, functions, reports)
                for region in functions.keys() - known:
                    functions[region] = with_hints_of(func, functions[region])
                kept += [] if is_more(func) else reports[first:]
        return tvm.IRModule(functions, attrs=mod.attrs).with_attr(REGIONS, kept)

    def _transform(
        self, func: relax.Function, functions: Functions, reports: list[dict[str, Any]]
    ) -> relax.Function:
        body = self._sequence(func.body, functions, reports)
        own = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)
        return relax.BlockBuilder().normalize(own)

    def _sequence(
        self, sequence: relax.SeqExpr, functions: Functions, reports: list[dict[str, Any]]
    ) -> relax.SeqExpr:
        """Return a function's body or a branch of an If with its regions as functions."""
        blocks = []
        for block in sequence.blocks:
            if isinstance(block, relax.DataflowBlock):
                blocks.append(relax.DataflowBlock(self._bindings(block, functions, reports)))
            else:
                branched = [self._branches(b, functions, reports) for b in block.bindings]
                blocks.append(relax.BindingBlock(branched))
        return relax.SeqExpr(blocks, sequence.body)

    def _branches(
        self, binding: relax.Binding, functions: Functions, reports: list[dict[str, Any]]
    ) -> relax.Binding:
        """Return a binding; if it is one of an If, with the regions of its branches."""
        value = getattr(binding, "value", None)
        if not isinstance(value, relax.If):
            return binding
        branches = (value.true_branch, value.false_branch)
        formed = (self._sequence(branch, functions, reports) for branch in branches)
        return relax.VarBinding(binding.var, relax.If(value.cond, *formed))

    def _bindings(
        self, block: relax.DataflowBlock, functions: Functions, reports: list[dict[str, Any]]
    ) -> list[relax.Binding]:
        """Return the bindings of a block with its regions as functions."""
        bindings: list[relax.Binding] = []
        for item in runs_of(order_of(block, self.planner.cpu)):
            if isinstance(item, relax.Binding):
                bindings.append(item)
                continue
            for planned in self.planner.partition(item):
                name = f"{PREFIX}_{len(reports)}"
                bindings += _outline(planned, name, functions)
                reports.append(planned.report())
        return bindings


def _outline(planned: PlannedRegion, name: str, functions: Functions) -> list[relax.Binding]:
    """Move the bindings of a region into a function of its own; return those that call it."""
    bindings = [node.binding for node in planned.nodes]
    if planned.plan is None:
        return bindings
    own = {binding.var for binding in bindings}
    outputs = [planned.nodes[i].binding.var for i in planned.shape.outputs]
    arguments: list[relax.Var] = []
    for binding in bindings:
        for var in relax.analysis.free_vars(binding.value):
            if var not in own and var not in arguments:
                arguments.append(var)
    renamed = {var: relax.Var(var.name, var.ty) for var in arguments}
    report = {key: value for key, value in planned.report().items() if key != "layers"}
    attrs = {REGION: report | {"images": lowered(planned.shape.images)}}
    inner = relax.BlockBuilder()
    with inner.function(name, list(renamed.values()), attrs=attrs, private=True):
        with inner.dataflow():
            for binding in bindings:
                renamed[binding.var] = inner.emit(_rename(binding.value, renamed))
            results = [renamed[var] for var in outputs]
            result = inner.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        inner.emit_func_output(result)
    (gvar,) = inner.get().get_global_vars()
    functions[gvar] = inner.get()[gvar]
    call = inner.normalize(relax.Call(gvar, arguments))
    if len(outputs) == 1:
        return [relax.VarBinding(outputs[0], call)]
    both = relax.DataflowVar(name, call.ty)
    taken = [
        relax.VarBinding(var, inner.normalize(relax.TupleGetItem(both, i)))
        for i, var in enumerate(outputs)
    ]
    return [relax.VarBinding(both, call), *taken]


def _rename(value: relax.Expr, names: dict[relax.Var, relax.Var]) -> relax.Expr:
    if isinstance(value, relax.Var):
        return names[value]
    if isinstance(value, relax.Tuple):
        return relax.Tuple([_rename(field, names) for field in value.fields])
    if isinstance(value, relax.Call):
        args = [_rename(arg, names) for arg in value.args]
        return relax.Call(value.op, args, value.attrs, value.ty_args)
    return value
