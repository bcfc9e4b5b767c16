"""x[i[j]] => x[min(max(i[j], 0), n - 1)], in all functions that operators of TVM become

No function reads or writes outside of its buffers, whatever numbers the inputs hold. Where an index
out of range is an error, `CheckIndices` has raised it before; here are the others, such as the
images of RoiAlign. An index that cannot leave its axis stays as it is.

Runs after `relax.transform.LegalizeOps`, before functions are scheduled and fused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm
from tvm import s_tir, tirx
from tvm_ffi import structural_map, structural_walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tvm.ir import Expr


@tvm.transform.module_pass(opt_level=0, name="ClampIndices")
class ClampIndices:
    """Keep indices that are read from memory inside of their axes."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod`, where no index that is read from memory can leave its axis."""
        functions = {gvar: _clamped(func) for gvar, func in mod.functions_items()}
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _clamped(func: tvm.ir.BaseFunc) -> tvm.ir.BaseFunc:
    if not isinstance(func, tirx.PrimFunc) or (func.attrs or {}).get("tirx.is_scheduled"):
        return func
    ranges = _Ranges(func)

    def load(found: tvm.ir.TensorLoad) -> Expr:
        indices = ranges.inside(found.indices, found.source.shape)
        if indices is None:
            return found
        return tirx.BufferLoad(found.source, indices)

    def store(found: tirx.BufferStore) -> tirx.Stmt:
        indices = ranges.inside(found.indices, found.buffer.shape)
        if indices is None:
            return found
        return tirx.BufferStore(found.buffer, found.value, indices)

    body = structural_map(func.body, (tvm.ir.TensorLoad, load))
    body = structural_map(body, (tirx.BufferStore, store))
    return func if body.same_as(func.body) else func.with_body(body)


class _Ranges:
    """The ranges of the loop variables of a function."""

    def __init__(self, func: tirx.PrimFunc) -> None:
        self.analyzer = tvm.sym.Analyzer()

        def block(found: s_tir.SBlock) -> None:
            for axis in found.iter_vars:
                self.analyzer.bind(axis.var, axis.dom)

        def loop(found: tirx.For) -> None:
            self.analyzer.bind(
                found.loop_var, tvm.ir.Range.from_min_extent(found.min, found.extent)
            )

        structural_walk(func.body, (s_tir.SBlock, block))
        structural_walk(func.body, (tirx.For, loop))

    def inside(self, indices: Sequence[Expr], shape: Sequence[Expr]) -> list[Expr] | None:
        """Return indices that cannot leave their axes, None if these cannot."""
        kept = [self._inside(i, extent) for i, extent in zip(indices, shape, strict=True)]
        same = all(new is old for new, old in zip(kept, indices, strict=True))
        return None if same else kept

    def _inside(self, index: Expr, extent: Expr) -> Expr:
        loads: list[tvm.ir.TensorLoad] = []
        structural_walk(index, (tvm.ir.TensorLoad, loads.append))
        if not loads:
            return index
        bound = tirx.Cast(index.ty, extent) if str(extent.ty) != str(index.ty) else extent
        within = tirx.And(index >= 0, index < bound)
        if self.analyzer.can_prove(within):
            return index
        zero = tirx.const(0, str(index.ty))
        return tirx.Max(tirx.Min(index, bound - 1), zero)
