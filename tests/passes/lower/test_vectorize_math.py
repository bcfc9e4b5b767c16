from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.special
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.passes.ir.operators import softplus
from tvm_sparse.passes.lower.vectorize_math import VectorizeMath
from tvm_sparse.testing.kernels import assembly

REFERENCES = {
    relax.op.exp: np.exp,
    relax.op.log: np.log,
    relax.op.erf: scipy.special.erf,
    relax.op.tanh: np.tanh,
    relax.op.sigmoid: scipy.special.expit,
    relax.op.nn.softmax: lambda x: scipy.special.softmax(x, -1),
    relax.op.nn.log_softmax: lambda x: scipy.special.log_softmax(x, -1),
    softplus: lambda x: np.logaddexp(x, 0),
    relax.op.nn.gelu: lambda x: x * scipy.special.ndtr(x),
}


def module(op, dtype: str = "float32") -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((5, 33), dtype))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(builder.normalize(op(x))))
    return relax.transform.LegalizeOps()(builder.get())


@pytest.mark.parametrize("op", REFERENCES)
def test_against_numpy(op):
    library = tvm.compile(VectorizeMath()(module(op)), target=native().to_target())
    x = np.random.default_rng(0).uniform(0.1, 5, (5, 33)).astype("float32")
    got = relax.VirtualMachine(library, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_allclose(got, REFERENCES[op](x.astype("float64")), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    "op", [relax.op.exp, relax.op.erf, relax.op.tanh, relax.op.sigmoid, softplus]
)
def test_float16(op):
    library = tvm.compile(VectorizeMath()(module(op, "float16")), target=native().to_target())
    x = np.random.default_rng(0).uniform(-5, 5, (5, 33)).astype("float16")
    got = relax.VirtualMachine(library, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_allclose(got, REFERENCES[op](x.astype("float64")), rtol=4e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_calls_are_left(dtype):
    after = VectorizeMath()(module(relax.op.nn.gelu, dtype))
    assert not re.search(r"T\.(exp|erf|tanh)", after.script())


@pytest.mark.parametrize("op, reference", [(relax.op.cosh, np.cosh), (relax.op.sinh, np.sinh)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("width", [7, 64])
def test_hyperbolic_functions(op, reference, dtype, width):
    """TVM has them for scalars only; the wide rows are computed in vectors."""
    values = np.linspace(-9, 9, 2 * width - 8)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-5, 0.999, -1.0]
    x = np.concatenate([special, values]).reshape(2, width).astype(dtype)
    if dtype == "float32":
        x[0, 0] = 89.3  # the exponential is infinite, half of it is not
    builder = relax.BlockBuilder()
    var = relax.Var("x", relax.TensorType(x.shape, dtype))
    with builder.function("main", [var]):
        builder.emit_func_output(builder.emit(builder.normalize(op(var))))
    library = tvm.compile(builder.get(), native().to_target(), relax_pipeline="tvm_sparse")
    got = relax.VirtualMachine(library, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    expected = reference(x.astype("float64")).astype(dtype)
    rtol = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=0)
    assert np.array_equal(np.signbit(got[0, 1:]), np.signbit(expected[0, 1:]))


def test_other_types_stay():
    before = module(relax.op.exp, "float64")
    tvm.ir.assert_structural_equal(VectorizeMath()(before), before)


@pytest.mark.parametrize("dtype", ["bool", "int32", "uint8"])
@pytest.mark.parametrize("op", [relax.op.exp, relax.op.tanh, relax.op.sigmoid, relax.op.erf])
def test_of_a_condition_or_an_integer(op, dtype):
    mod = module(lambda x: op(relax.op.astype(x, "float32")), dtype)
    library = tvm.compile(mod, target=native().to_target(), relax_pipeline="tvm_sparse")
    x = np.random.default_rng(0).integers(0, 2, (5, 33)).astype(dtype)
    got = relax.VirtualMachine(library, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_allclose(got, REFERENCES[op](x.astype("float64")), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("target", ["skylake-avx512", "x86-64-v3"])
def test_rounding_to_even_is_vector_code(target):
    cpu = profile(target)
    lanes = cpu.vector_bits // 32
    x = tvm.te.placeholder((64, lanes), "float32", name="x")
    y = tvm.te.compute(x.shape, lambda *i: tvm.tirx.nearbyint(x(*i)))
    schedule = tvm.s_tir.Schedule(tvm.te.create_prim_func([x, y]))
    schedule.vectorize(schedule.get_loops(schedule.get_sblock("compute"))[-1])
    text = assembly(VectorizeMath()(schedule.mod)["main"], cpu)
    assert re.search(r"v(rndscale|round)ps", text) and not re.search("gather|scatter|roundss", text)
