from __future__ import annotations

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax

import tvm_sparse
from tvm_sparse.cpu.profile import native
from tvm_sparse.errors import InputError
from tvm_sparse.passes.lower.check_divisors import CheckDivisors

OPS = relax.op


def module(op, dtype):
    builder, shape = relax.BlockBuilder(), (40,)
    a, b = (relax.Var(name, relax.TensorType(shape, dtype)) for name in "ab")
    with builder.function("main", [a, b]):
        with builder.dataflow():
            quotient = builder.emit(op(a, b))
            result = builder.emit_output(OPS.add(quotient, a))
        builder.emit_func_output(result)
    return builder.get()


def compiled(op, dtype):
    executable = tvm.compile(module(op, dtype), native().to_target(), relax_pipeline="tvm_sparse")
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    return lambda *arrays: main(*map(tvm.runtime.tensor, arrays)).numpy()


QUOTIENTS = {OPS.divide: lambda a, b: np.trunc(a / b).astype(a.dtype), OPS.floor_mod: np.mod}


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "int8"])
@pytest.mark.parametrize("op", QUOTIENTS)
def test_integers(op, dtype):
    rng, main = np.random.default_rng(0), compiled(op, dtype)
    a = rng.integers(0, 60, 40).astype(dtype)
    b = rng.integers(1, 9, 40).astype(dtype)
    if not dtype.startswith("u"):
        a, b = a - np.array(30, dtype), b * np.resize(np.array([1, -1], dtype), 40)
        b[::5] = -1
    np.testing.assert_array_equal(main(a, b), QUOTIENTS[op](a, b) + a)
    b[17] = 0
    with pytest.raises(ValueError, match="divided by zero"):
        main(a, b)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_the_smallest_integer_by_minus_one_wraps(dtype):
    smallest = np.full(40, np.iinfo(dtype).min, dtype)
    got = compiled(OPS.divide, dtype)(smallest, np.full(40, -1, dtype))
    np.testing.assert_array_equal(got, smallest + smallest)


def test_floats_stay():
    mod = relax.transform.LegalizeOps()(module(OPS.divide, "float32"))
    tvm.ir.assert_structural_equal(CheckDivisors()(mod), mod)


def test_an_engine_names_the_reason(tmp_path):
    node, integers = onnx.helper.make_node, onnx.TensorProto.INT32
    values = [onnx.helper.make_tensor_value_info(name, integers, [3]) for name in "aby"]
    graph = onnx.helper.make_graph([node("Div", ["a", "b"], ["y"])], "g", values[:2], values[2:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    engine = tvm_sparse.compile(tmp_path / "m.onnx")
    a = np.int32([7, -7, 7])
    with pytest.raises(InputError, match="an integer was divided by zero"):
        engine.run({"a": a, "b": np.int32([1, 0, 2])})
    np.testing.assert_array_equal(engine.run({"a": a, "b": np.int32([2, 2, -1])})["y"], [3, -3, -7])
