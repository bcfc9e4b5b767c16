"""CountMultiples: main(x [32 h], (h)) => main(x [height]) = main_of_multiples(x, (height // 32))

A size that is a multiple of a number is known by how many multiples it has, so that the quotients
in which it is cut are whole for all values. A function takes such counts as a last parameter. This
pass gives a module a `main` that takes inputs only.
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax, tirx
from tvm_ffi import structural_equal

MULTIPLES = "tvm_sparse.multiples"
"""The attribute of a module with the numbers that divide sizes, by name. The variable of such a
name counts multiples."""

PLANNED = 512
"""About how many rows an image of open height is planned for if nobody says how many it has."""

MAIN = "main"


def default_counts(multiples: Mapping[str, int]) -> dict[str, int]:
    """Return how many multiples of numbers are planned for: those next to `PLANNED`."""
    return {name: max(round(PLANNED / multiple), 1) for name, multiple in multiples.items()}


def counted(sizes: Mapping[str, int], multiples: Mapping[str, int]) -> dict[str, int]:
    """Return sizes with counts in place of those that are multiples."""
    return {name: max(size // multiples.get(name, 1), 1) for name, size in sizes.items()}


def multiples_in(mod: tvm.IRModule) -> dict[str, int]:
    """Return the numbers that divide sizes of a module's inputs, by name."""
    found: Mapping[str, int] = mod.attrs.get(MULTIPLES, {}) if mod.attrs else {}
    return {str(name): int(multiple) for name, multiple in found.items()}


@tvm.transform.module_pass(opt_level=0, name="CountMultiples")
class CountMultiples:
    """Count the multiples of sizes where a module's inputs come in."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with a ``main`` that takes its inputs only."""
        multiples = multiples_in(mod)
        if not multiples:
            return mod
        main = mod[MAIN]
        *params, counts = main.params
        sizes = {var: tirx.Var(var.name, "int64") for var in counts.ty.values}
        outer = []
        for param in params:
            shape = [_outer(size, sizes, multiples) for size in param.ty.shape.values]
            outer.append(relax.Var(param.name, relax.TensorType(shape, param.ty.dtype)))
        inner = main.without_attr("global_symbol")
        gvar = relax.BlockBuilder().add_func(inner, f"{MAIN}_of_multiples")
        counted = [
            tirx.floordiv(sizes[var], tirx.IntImm("int64", multiples[var.name]))
            for var in counts.ty.values
        ]
        builder = relax.BlockBuilder()
        with builder.function(MAIN, outer, attrs=dict(main.attrs)):
            result = builder.emit(relax.Call(gvar, [*outer, relax.ShapeExpr(counted)]))
            builder.emit_func_output(result)
        made = builder.get()[MAIN]
        functions = dict(mod.functions_items())
        functions |= {gvar: inner, mod.get_global_var(MAIN): made}
        return tvm.IRModule(functions, attrs=mod.attrs)


def _outer(
    size: tirx.PrimExpr, sizes: Mapping[tirx.Var, tirx.Var], multiples: Mapping[str, int]
) -> tirx.PrimExpr:
    """Return a size of an input in terms of the sizes themselves."""
    for var, own in sizes.items():
        if structural_equal(size, var * tirx.IntImm("int64", multiples[var.name])):
            return own
        if size.same_as(var):
            return own
    return size
