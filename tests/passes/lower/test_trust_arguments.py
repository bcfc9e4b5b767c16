"""Functions that read what the network itself has made check no arguments; the others do."""

import numpy as np
import pytest
import tvm
from tvm import relax, te, tirx
from tvm.script import tirx as T

from tvm_sparse.cpu.profile import native
from tvm_sparse.kernel_objects import compiled
from tvm_sparse.passes.lower.trust_arguments import TRUSTED, TrustArguments

N = 4


def plus_one(*arrays):
    return te.compute((N,), lambda i: sum(a[i] for a in arrays) + 1.0, "plus_one")


@T.prim_func(s_tir=True)
def asserting(a: T.Buffer((N,), "float32"), b: T.Buffer((N,), "float32")):
    assert a[0] >= T.float32(0), ("ValueError", ["a[0] is negative"])
    for i in range(N):
        with T.sblock("copy"):
            v = T.axis.spatial(N, i)
            b[v] = a[v]


def trusted(emit):
    """Return the trusted functions of a module that `emit` makes with a builder and its input."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((N,), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(emit(builder, x))
        builder.emit_func_output(result)
    mod = TrustArguments()(builder.get())
    functions = {g.name_hint: f for g, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)}
    return mod, {name for name, func in functions.items() if (func.attrs or {}).get(TRUSTED)}


def call(builder, name, *operands):
    return builder.emit_te(plus_one, *operands, primfunc_name_hint=name)


def twice(builder, name, operand):
    """Call another function than `call` does: a builder has one of functions that are equal."""
    return call(builder, name, operand, operand)


def test_what_other_functions_wrote_is_trusted():
    def emit(builder, x):
        first = call(builder, "reads_input", x)
        flat = builder.emit(relax.op.reshape(first, (N,)))
        return call(builder, "inside", flat, relax.const(np.ones(N, "float32")))

    assert trusted(emit)[1] == {"inside"}


def test_a_view_of_an_input_is_an_input():
    def emit(builder, x):
        flat = builder.emit(relax.op.reshape(x, (N,)))
        return twice(builder, "inside", call(builder, "reads_view", flat))

    assert trusted(emit)[1] == {"inside"}


def test_a_function_that_reads_an_input_anywhere_is_not_trusted():
    def emit(builder, x):
        first = builder.emit_te(plus_one, x, primfunc_name_hint="everywhere")
        return builder.emit_te(plus_one, first, primfunc_name_hint="everywhere")

    assert trusted(emit)[1] == set()


def test_what_foreign_functions_return_is_not_trusted():
    def emit(builder, x):
        kind = relax.TensorType((N,), "float32")
        foreign = builder.emit(relax.op.call_pure_packed("foreign", x, ty_args=[kind]))
        return call(builder, "reads_foreign", foreign)

    assert trusted(emit)[1] == set()


def test_assertions_of_a_function_stay():
    def emit(builder, x):
        gvar = builder.add_func(asserting.with_attr("global_symbol", "asserting"), "asserting")
        kind = relax.TensorType((N,), "float32")
        first = call(builder, "reads_input", x)
        return builder.emit(relax.op.call_tir(gvar, relax.Tuple([first]), kind))

    assert trusted(emit)[1] == set()


@pytest.mark.parametrize("is_trusted", [True, False])
def test_code_has_the_checks_that_are_needed(is_trusted):
    def emit(builder, x):
        first = call(builder, "reads_input", x)
        return twice(builder, "inside", first) if is_trusted else first

    mod, found = trusted(emit)
    name = "inside" if is_trusted else "reads_input"
    assert (name in found) == is_trusted
    part = tvm.IRModule({name: mod[name].with_attr("global_symbol", name)})
    code = compiled(part, native().to_target(), tvm.transform.PassContext.current())
    assert ("Mismatched" in code.inspect_source("ll")) != is_trusted
    a, b = (tvm.runtime.tensor(np.full(N, i, "float32")) for i in range(2))
    code[name](a, *[a] * is_trusted, b)
    np.testing.assert_array_equal(b.numpy(), 1)
