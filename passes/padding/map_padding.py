"""MapPadding: main(ids, mask, source, first, count, place) => main(ids, mask)

The function of packed tokens has the inputs of the model again. It computes of the mask where
tokens are packed, and into how many rows of panels.

Runs after regions are planned: they know the rows as a size of an input.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.passes.padding.drop_padding import MAIN, decision

MAPS = 4
"""The inputs that are computed of the mask."""


@tvm.transform.module_pass(opt_level=0, name="MapPadding")
class MapPadding:
    """Compute what a function of packed tokens must know of the mask."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with a ``main`` that has the inputs of the model."""
        decided = decision(mod)
        if not decided.get("mask"):
            return mod
        gvar, main = mod.get_global_var(MAIN), mod[MAIN]
        params, maps = main.params[:-MAPS], main.params[-MAPS:]
        (mask,) = (param for param in params if param.name == decided["mask"])
        dtype, lanes = str(mask.ty.dtype), int(decided["lanes"])
        keeps_first = bool(decided["keeps_first"])
        text = f"input {mask.name!r} holds other numbers than 0 and 1: it is a mask of tokens"
        builder = relax.BlockBuilder(mod)
        count = builder.add_func(
            schedules.count_rows(dtype, lanes, keeps_first, text), "count_rows"
        )
        make = builder.add_func(schedules.make_map(dtype, lanes, keeps_first), "make_map")
        bindings: list[relax.Binding] = []

        def emit(name: str, value: relax.Expr) -> relax.Var:
            value = builder.normalize(value)
            bindings.append(relax.VarBinding(relax.Var(name, value.ty), value))
            return bindings[-1].var

        counted = emit("rows", relax.call_tir(count, [mask], relax.TensorType((1,), "int64")))
        shape = emit("shape", relax.op.tensor_to_shape(counted))
        rows = relax.ShapeType([maps[0].ty.shape.values[0]])
        bindings.append(relax.MatchCast(relax.Var("known", rows), shape, rows))
        made = emit("maps", relax.call_tir(make, [mask], [param.ty for param in maps]))
        bindings += [
            relax.VarBinding(param, relax.TupleGetItem(made, i)) for i, param in enumerate(maps)
        ]
        body = relax.SeqExpr([relax.BindingBlock(bindings), *main.body.blocks], main.body.body)
        mapped = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
        result = builder.get()
        result.update_func(gvar, mapped)
        return result
