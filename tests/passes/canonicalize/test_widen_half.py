import numpy as np
import pytest
import tvm
from tvm import relax

import tvm_sparse
from tvm_sparse.passes.canonicalize.widen_half import WidenHalf
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.testing.models import pruned

SHAPE = (40, 64)


def function(dtype, body, shape=SHAPE):
    """Return a module of a function of one tensor."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit, x))
        builder.emit_func_output(result)
    return builder.get()


def bias(dtype):
    return relax.const(np.linspace(-1, 1, SHAPE[1]), dtype)


def operators(mod):
    """Return the operators of a function, each with the type of its result."""
    bindings = (b for block in mod["main"].body.blocks for b in block.bindings)
    calls = [b.value for b in bindings if isinstance(b.value, relax.Call)]
    return [(call.op.name.removeprefix("relax."), str(call.ty.dtype)) for call in calls]


def test_casts_stand_at_the_ends():
    def body(emit, x):
        return emit(relax.op.nn.relu(emit(relax.op.add(x, bias("float16")))))

    def widened(emit, x):
        wide = emit(relax.op.astype(x, "float32"))
        sums = emit(relax.op.add(wide, relax.const(bias("float16").value.numpy().astype("f4"))))
        return emit(relax.op.astype(emit(relax.op.nn.relu(sums)), "float16"))

    mod = WidenHalf()(function("float16", body))
    assert operators(mod) == operators(function("float16", widened))
    assert mod["main"].ret_ty == relax.TensorType(SHAPE, "float16")


def test_casts_of_the_model_stay_and_are_not_doubled():
    def body(emit, x):
        wide = emit(relax.op.astype(x, "float32"))
        return emit(relax.op.astype(emit(relax.op.nn.relu(wide)), "float16"))

    before = function("float16", body)
    assert operators(WidenHalf()(before)) == operators(before)

    def rounds(emit, x):
        half = emit(relax.op.astype(x, "float16"))
        return emit(relax.op.astype(emit(relax.op.add(half, half)), "float32"))

    assert [name for name, _ in operators(WidenHalf()(function("float32", rounds)))] == [
        "astype",
        "astype",
        "add",
    ]


def test_functions_outside_get_the_types_that_they_had():
    def body(emit, x):
        name, ty = tvm.ir.StringImm("a name"), relax.TensorType(SHAPE, "float16")
        y = emit(relax.op.nn.relu(x))
        return emit(relax.call_pure_packed("outside", name, y, ty_args=ty))

    mod = WidenHalf()(function("float16", body))
    (call,) = (
        binding.value
        for binding in mod["main"].body.blocks[0].bindings
        if is_call_to(binding.value, "relax.call_pure_packed")
    )
    assert [str(arg.ty.dtype) for arg in call.args[2:]] == ["float16"]
    assert call.args[1].value == "a name"


def test_modules_without_half_stay():
    before = function("float32", lambda emit, x: emit(relax.op.add(x, bias("float32"))))
    tvm.ir.assert_structural_equal(WidenHalf()(before), before)


@pytest.mark.parametrize("kind", ["tuple", "filled", "input", "packed"])
def test_numbers(kind):
    def body(emit, x):
        if kind == "tuple":
            parts = emit(relax.op.split(x, 2, axis=1))
            return emit(relax.op.multiply(parts[0], parts[1]))
        if kind == "filled":
            return emit(relax.op.add(x, emit(relax.op.full(SHAPE, relax.const(0.5, "float16")))))
        if kind == "packed":
            return emit(relax.op.nn.relu(emit(tenfold(x))))
        return x

    def tenfold(x):
        return relax.call_dps_packed("tests.tenfold", [x], relax.TensorType(SHAPE, "float16"))

    @tvm.register_global_func("tests.tenfold", override=True)
    def _(source, out):
        assert str(source.dtype) == str(out.dtype) == "float16"
        out.copyfrom(source.numpy() * np.float16(10))

    x = np.random.default_rng(0).standard_normal(SHAPE).astype("float16")
    want = {
        "tuple": lambda: x[:, :32] * x[:, 32:],
        "filled": lambda: x + np.float16(0.5),
        "packed": lambda: np.maximum(x * np.float16(10), 0),
        "input": lambda: x,
    }[kind]()
    (got,) = tvm_sparse.compile(function("float16", body)).run({"x": x}).values()
    assert got.dtype == "float16"
    np.testing.assert_array_equal(got, want)


def test_layers_are_sparse():
    weight = pruned(np.random.default_rng(0), (64, 96), 0.1)
    product = relax.const(weight, "float16")
    mod = function("float16", lambda emit, x: emit(relax.op.matmul(x, product)))
    engine = tvm_sparse.compile(mod, strict=True)
    assert [layer.kernel for layer in engine.report.layers] == ["sparse_linear"]
    x = np.random.default_rng(1).standard_normal(SHAPE).astype("float16")
    (got,) = engine.run({"x": x}).values()
    want = x.astype("float64") @ weight.astype("float16").astype("float64")
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())
