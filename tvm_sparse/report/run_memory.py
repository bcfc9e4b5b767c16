"""The memory that an inference takes for activations, as TVM and the columns plan it."""

from __future__ import annotations

from collections.abc import Iterable

import tvm
from tvm import relax

from tvm_sparse.columns.memory import scratch_bytes, stage_memory
from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.columns.shapes import RegionShape
from tvm_sparse.passes.ir.expressions import is_call_to

_ALLOCATIONS = ("relax.vm.alloc_storage", "relax.memory.alloc_storage")


def storage_bytes(mod: tvm.IRModule) -> int:
    """Return the bytes of all storages of a module that went through TVM's memory planning.

    Activations share the storages; weights are not among them.
    """
    total = 0

    def visit(expr: relax.Expr) -> None:
        nonlocal total
        if is_call_to(expr, *_ALLOCATIONS):
            (size,) = expr.args[0].values
            total += int(size)

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return total


def column_bytes(regions: Iterable[tuple[RegionShape, ColumnPlan]], cores: int) -> int:
    """Return the bytes of the scratch memory that all cores keep for columns.

    Regions run one after another and share this memory.
    """
    most = 0
    for region, plan in regions:
        fitted = plan.fitted(region)
        most = max(most, scratch_bytes(region, stage_memory(region, fitted)))
    return cores * most
