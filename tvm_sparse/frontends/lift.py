"""One module with variables for sizes, of the modules that imports at several sizes made.

The modules have the same calls in the same order; numbers in shapes and arguments become formulas
of the sizes (`tvm_sparse.frontends.formulas`), and constants that differ become expressions
(`tvm_sparse.frontends.lifted_constants`). Whatever does not fit is an error that names the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
from tvm import relax, tirx
from tvm_ffi import structural_equal, structural_map

from tvm_sparse.errors import NotLifted
from tvm_sparse.frontends.formulas import Formulas
from tvm_sparse.frontends.lifted_constants import Constants
from tvm_sparse.frontends.probes import Sizes
from tvm_sparse.passes.lower.count_multiples import MULTIPLES


def lift(
    modules: Sequence[tvm.IRModule],
    at: Sequence[Sizes],
    shapes: Sequence[Sequence[int | str]],
    constants: Callable[[Formulas], Constants],
    multiples: Mapping[str, int],
) -> tuple[tvm.IRModule, Constants]:
    """Return the module for all sizes, and what its constants allow.

    Parameters
    ----------
    modules : sequence of IRModule
        The imports at the probes.
    at : sequence of Sizes
        The probes.
    shapes : sequence of shapes
        The shape of every input, with names.
    constants : callable
        Makes what lifts constants, from what finds formulas.
    multiples : mapping of str to int
        The numbers that divide named sizes. The variable of such a size counts its multiples, and
        so do the probes; the function has a last parameter with these variables, see
        `tvm_sparse.passes.lower.count_multiples`.

    Raises
    ------
    NotLifted
        If the modules differ in another way than by sizes.
    """
    variables = {name: tirx.Var(name, "int64") for name in at[0]}
    formulas = Formulas(at, variables)
    lifter = _Lifter(formulas, constants(formulas), multiples)
    lifted = lifter.lift([mod["main"] for mod in modules], shapes)
    lifted = lifted.with_attrs(dict(modules[0].attrs or {}))
    return lifted.with_attr(MULTIPLES, dict(multiples)) if multiples else lifted, lifter.constants


class _Lifter:
    """The state of one lifting."""

    def __init__(
        self,
        formulas: Formulas,
        constants: Constants,
        multiples: Mapping[str, int],
    ) -> None:
        self.multiples = multiples
        self.formulas, self.constants = formulas, constants
        self.at, self.variables = formulas.at, formulas.variables
        self.builder = relax.BlockBuilder()
        self.known: dict[relax.Var, relax.Expr] = {}
        """What stands for a variable of the first module."""
        self.same: list[dict[relax.Var, relax.Var]] = [{} for _ in self.at]
        """The variable of the first module for each variable of a module."""
        self.where = ""

    def lift(
        self, mains: Sequence[relax.Function], shapes: Sequence[Sequence[int | str]]
    ) -> tvm.IRModule:
        params = []
        for own, shape in zip(
            zip(*(main.params for main in mains), strict=True), shapes, strict=True
        ):
            self._bind(own)
            extents = [self._extent(d) if isinstance(d, str) else d for d in shape]
            params.append(relax.Var(own[0].name, relax.TensorType(extents, own[0].ty.dtype)))
            self.known[own[0]] = params[-1]
        if self.multiples:
            counted = [self.variables[name] for name in self.multiples]
            params.append(relax.Var("multiples", relax.ShapeType(counted)))
        builder, refusal = self.builder, None
        with builder.function("main", params):
            with builder.dataflow():
                try:
                    result = builder.emit_output(self._body(mains))
                except NotLifted as error:  # TVM complains about a function that is not finished
                    refusal, result = error, builder.emit_output(params[0])
            builder.emit_func_output(result)
        if refusal is not None:
            raise refusal
        attrs = mains[0].attrs
        mod = builder.get()
        if attrs:
            kept = {k: v for k, v in attrs.items() if k != "global_symbol"}
            mod.update_func(mod.get_global_var("main"), mod["main"].with_attrs(kept))
        # The result has a second name, which hides the tuple of several outputs.
        return relax.transform.CanonicalizeBindings()(mod)

    def _body(self, mains: Sequence[relax.Function]) -> relax.Expr:
        """Return the result of the function for all sizes, behind its bindings."""
        for bindings in zip(*map(_bindings, mains), strict=False):
            self._binding(bindings)
        if len({len(_bindings(main)) for main in mains}) > 1:
            raise self._error("the graphs have different numbers of operators")
        return self._expr([main.body.body for main in mains])

    def _extent(self, name: str) -> Any:
        multiple = self.multiples.get(name, 1)
        size = self.variables[name]
        return size * tirx.IntImm("int64", multiple) if multiple > 1 else size

    def _binding(self, bindings: Sequence[relax.Binding]) -> None:
        self.where = str(bindings[0].var.name)
        if not all(isinstance(binding, relax.VarBinding) for binding in bindings):
            raise self._error("a part of the graph depends on values")
        values = [binding.value for binding in bindings]
        lifted = self._expr(values)
        if not isinstance(lifted, relax.Var):
            lifted = self.builder.emit(lifted, self.where)
        own = tuple(binding.var for binding in bindings)
        self._bind(own)
        self.known[own[0]] = self._checked(lifted, own)

    def _checked(self, lifted: relax.Var, own: Sequence[relax.Var]) -> relax.Expr:
        """Return a lifted value whose shape is right at every probe."""
        if not isinstance(own[0].ty, relax.TensorType):
            return lifted
        shapes = [var.ty.shape for var in own]
        if not all(isinstance(shape, relax.ShapeExpr) for shape in shapes):
            return lifted
        values = [list(map(int, sizes)) for sizes in zip(*shapes, strict=True)]
        shape = lifted.ty.shape
        if isinstance(shape, relax.ShapeExpr) and len(shape.values) == len(values):
            if all(map(self._agrees, shape.values, values)):
                for size, numbers in zip(shape.values, values, strict=True):
                    self.formulas.remember(size, numbers)
                return lifted
            raise self._error("its shape is no formula of the sizes")
        ty = relax.TensorType(list(map(self._number, values)), own[0].ty.dtype)
        return self.builder.match_cast(lifted, ty)

    def _agrees(self, size: Any, values: Sequence[Any]) -> bool:
        analyzer = tvm.sym.Analyzer()
        for sizes, value in zip(self.at, values, strict=True):
            given = {self.variables[name]: tirx.IntImm("int64", n) for name, n in sizes.items()}
            found = analyzer.simplify(_substituted(size, given))
            if not isinstance(found, tirx.IntImm) or int(found) != int(value):
                return False
        return True

    def _bind(self, own: Sequence[relax.Var]) -> None:
        for same, var in zip(self.same, own, strict=True):
            same[var] = own[0]

    def _expr(self, values: Sequence[Any]) -> Any:
        """Return the expression for all sizes of the expressions at the probes."""
        first = values[0]
        if len({type(value) for value in values}) > 1:
            raise self._error("the graphs differ")
        if isinstance(first, tirx.IntImm):
            return self._number(values)
        if isinstance(first, relax.Var):
            found = [same.get(value) for same, value in zip(self.same, values, strict=True)]
            if any(one is None or not one.same_as(found[0]) for one in found):
                raise self._error("the graphs differ")
            return self.known[found[0]]
        if isinstance(first, tvm.ir.GenericConst):
            arrays = [value.value.numpy() for value in values]
            try:
                return self.constants.lifted(arrays, first, self.builder.emit)
            except ValueError as error:
                raise self._error(str(error)) from None
        if isinstance(first, relax.ShapeExpr):
            return relax.ShapeExpr([self._number(n) for n in self._zip([v.values for v in values])])
        if isinstance(first, relax.Tuple):
            return relax.Tuple([self._expr(f) for f in self._zip([v.fields for v in values])])
        if isinstance(first, relax.TupleGetItem):
            return relax.TupleGetItem(self._expr([v.tuple_value for v in values]), first.index)
        if isinstance(first, relax.Call):
            return self._call(values)
        if all(structural_equal(first, value) for value in values):
            return first
        raise self._error("the graphs differ")

    def _call(self, calls: Sequence[relax.Call]) -> relax.Expr:
        first = calls[0]
        if not all(isinstance(call.op, tvm.ir.Op) and call.op.same_as(first.op) for call in calls):
            raise self._error("the graphs differ, or call functions")
        if first.op.name in ("relax.call_pure_packed", "relax.call_tir"):
            raise self._error("ONNX Runtime would run it, and that needs fixed sizes")
        if not all(structural_equal(first.attrs, call.attrs) for call in calls if first.attrs):
            raise self._error("its attributes depend on the sizes")
        args = [self._expr(args) for args in self._zip([call.args for call in calls])]
        return relax.Call(first.op, args, first.attrs, first.ty_args)

    def _number(self, values: Sequence[Any]) -> Any:
        found = self.formulas.of(values)
        if found is None:
            raise self._error(f"the number {list(map(int, values))} is no formula of the sizes")
        return found if not isinstance(found, int) else tirx.IntImm("int64", found)

    def _zip(self, lists: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        if len({len(each) for each in lists}) > 1:
            raise self._error("the graphs differ")
        return list(zip(*lists, strict=True))

    def _error(self, why: str) -> NotLifted:
        names = ", ".join(self.variables)
        where = f"node {self.where!r}" if self.where else "the model"
        return NotLifted(
            f"{where} cannot be compiled for any {names}: {why}; give fixed sizes "
            "(shapes=, --shape)"
        )


def _substituted(size: Any, given: Mapping[Any, Any]) -> Any:
    return structural_map(size, (tvm.ir.Var, lambda var: given.get(var, var)))


def _bindings(main: relax.Function) -> list[relax.Binding]:
    return [binding for block in main.body.blocks for binding in block.bindings]
