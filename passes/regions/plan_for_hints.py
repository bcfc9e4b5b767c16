"""PlanForHints: main(x) => main_0(x) if x is small else main_1(x)

Both functions compute the same, with the same weights. `FormRegions` plans the regions of each for
sizes of its own, its attribute `HINTS`. An inference takes the function whose sizes are next to its
own: the product of the sizes that differ, compared with the geometric mean of the products of two
neighbours.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.passes.ir.shapes import planned_as
from tvm_sparse.passes.padding.tokens import ROWS

HINTS = "tvm_sparse.hints"
"""The attribute of a function that is planned for sizes of its own: their values by name."""
MORE = "tvm_sparse.more_hints"
"""The attribute of those of them that are planned for other hints than the first one."""
MAIN = "main"


@tvm.transform.module_pass(opt_level=0, name="PlanForHints")
class PlanForHints:
    """Make a function of ``main`` for each of several hints.

    Parameters
    ----------
    hints : sequence of mapping of str to int
        Values of the same named sizes; a single one changes nothing.
    """

    def __init__(self, hints: Sequence[Mapping[str, int]]) -> None:
        self.hints = hints

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with a ``main`` that calls one of several functions."""
        values = {name: {point[name] for point in self.hints} for name in self.hints[0]}
        differing = [name for name, sizes in values.items() if len(sizes) > 1]
        if not differing:
            return mod
        # The work of packed sentences is in proportion to their rows, however long they are.
        differing = [ROWS] if ROWS in differing else differing
        totals = [math.prod(hints[name] for name in differing) for hints in self.hints]
        order = sorted(range(len(totals)), key=totals.__getitem__)
        main = mod[MAIN]
        functions = dict(mod.functions_items())
        planned: list[tvm.ir.GlobalVar] = []
        for number in order:
            name = f"{MAIN}_{number}"
            copy = relax.utils.copy_with_new_vars(main).without_attr("global_symbol")
            # Attributes have kept the variables of `main`.
            copy = copy.bind_symbolic_vars(_variables(main))
            copy = copy.with_attr(HINTS, dict(self.hints[number]))
            copy = copy.with_attr(MORE, True) if number else copy
            gvar = relax.BlockBuilder().add_func(copy, name)
            functions[gvar] = copy
            planned.append(gvar)
        size = math.prod(_variables(main)[name] for name in differing)
        chosen = _choice(main, size, [totals[i] for i in order], planned)
        functions[mod.get_global_var(MAIN)] = chosen
        return tvm.IRModule(functions, attrs=mod.attrs)


def is_more(func: relax.Function) -> bool:
    """Return whether another function computes the same, planned for the first hints."""
    return bool(func.attrs and MORE in func.attrs)


def with_hints_of(func: relax.Function, region: relax.Function) -> relax.Function:
    """Return a region with the attribute of the function that it is a part of."""
    has_own = func.attrs and HINTS in func.attrs
    return region.with_attr(HINTS, func.attrs[HINTS]) if has_own else region


@contextlib.contextmanager
def hints_of(func: relax.Function) -> Iterator[None]:
    """Plan for the sizes of a function, if it has some of its own."""
    own = dict(func.attrs[HINTS].items()) if func.attrs and HINTS in func.attrs else {}
    with planned_as({str(name): int(size) for name, size in own.items()}):
        yield


def _variables(main: relax.Function) -> dict[str, Any]:
    """Return the variables of the sizes of a function's inputs by name."""
    found = (var for param in main.params for var in relax.analysis.tir_vars_in_type(param.ty))
    return {var.name: var for var in found}


def _choice(
    main: relax.Function, size: Any, totals: Sequence[int], planned: Sequence[tvm.ir.GlobalVar]
) -> relax.Function:
    """Return `main` with calls of the functions `planned` for `totals`, which ascend."""
    params = list(main.params)

    def call(gvar: tvm.ir.GlobalVar) -> relax.Call:
        return relax.Call(gvar, params)

    def branch(value: relax.Expr) -> relax.SeqExpr:
        result = relax.Var("result", main.ret_ty)
        return relax.SeqExpr([relax.BindingBlock([relax.VarBinding(result, value)])], result)

    chosen: relax.Expr = call(planned[0])
    for i in range(1, len(planned)):
        is_next = size * size >= totals[i - 1] * totals[i]
        chosen = relax.If(is_next, branch(call(planned[i])), branch(chosen))
    return relax.Function(params, branch(chosen), main.ret_ty, main.is_pure, main.attrs)
