"""Large constants of lowered functions become parameters."""

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.lifting import LEAST_BYTES, lift_weights

LARGE = relax.const(np.arange(LEAST_BYTES // 4, dtype="float32"))
SMALL = relax.const(np.ones(LEAST_BYTES // 4 - 1, "float32"))


def function(*constants):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((LEAST_BYTES // 4,), "float32"))
    with builder.function("main", [x]):
        value = x
        for constant in constants:
            value = builder.emit(relax.op.add(value, constant))
        small = builder.emit(relax.op.nn.relu(SMALL))
        builder.emit_func_output(relax.Tuple([value, small]))
    return builder.get()["main"]


def constants_of(func):
    found = []
    relax.analysis.post_order_visit(
        func, lambda e: found.append(e) if isinstance(e, tvm.ir.GenericConst) else None
    )
    return found


def test_functions_share_weights():
    other = relax.const(np.zeros(LEAST_BYTES // 4, "float32"))
    mod = tvm.IRModule({"a": function(LARGE, LARGE), "b": function(other, LARGE), "c": function()})
    lifted, weights, read_by = lift_weights(mod)
    assert read_by == {"a": (0,), "b": (1, 0)}
    np.testing.assert_array_equal(weights[0].numpy(), LARGE.value.numpy())
    np.testing.assert_array_equal(weights[1].numpy(), other.value.numpy())
    assert [len(lifted[name].params) for name in "abc"] == [2, 3, 1]
    for name in "abc":
        assert [c.value.shape for c in constants_of(lifted[name])] == [SMALL.value.shape]


def test_equal_weights_are_one():
    again = relax.const(LARGE.value.numpy())
    negative_zeros = relax.const(-np.zeros(LEAST_BYTES // 4, "float32"))
    zeros = relax.const(np.zeros(LEAST_BYTES // 4, "float32"))
    _, weights, read_by = lift_weights(
        tvm.IRModule({"a": function(LARGE, zeros), "b": function(negative_zeros, again)})
    )
    assert read_by == {"a": (0, 1), "b": (2, 0)}
    assert np.signbit(weights[2].numpy()).all()


def test_a_function_that_others_call_keeps_its_weights():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((LEAST_BYTES // 4,), "float32"))
    with builder.function("inner", [x], private=True):
        builder.emit_func_output(builder.emit(relax.op.add(x, LARGE)))
    inner = builder.get().get_global_var("inner")
    y = relax.Var("y", relax.TensorType((LEAST_BYTES // 4,), "float32"))
    with builder.function("main", [y]):
        builder.emit_func_output(builder.emit(relax.Call(inner, [y])))
    mod = builder.get()
    lifted, weights, read_by = lift_weights(mod)
    assert weights == [] and read_by == {}
    tvm.ir.assert_structural_equal(lifted, mod)


def test_constants_of_no_bytes():
    """TVM's own blob of constants cannot hold them."""
    empty = relax.const(np.zeros((0, 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", []):
        builder.emit_func_output(builder.emit(relax.op.nn.relu(empty)))
    lifted, weights, read_by = lift_weights(builder.get())
    assert read_by == {"main": (0,)} and weights[0].shape == (0, 3)
    assert constants_of(lifted["main"]) == []


def test_types_that_numpy_does_not_have_stay():
    half = relax.const(np.zeros(LEAST_BYTES, "float32"), "bfloat16")
    builder = relax.BlockBuilder()
    with builder.function("main", []):
        builder.emit_func_output(builder.emit(relax.op.nn.relu(half)))
    assert lift_weights(builder.get())[1] == []


def test_values(tmp_path):
    lifted, weights, _ = lift_weights(tvm.IRModule({"main": function(LARGE)}))
    executable = tvm.compile(lifted, "llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    x = np.ones(LEAST_BYTES // 4, "float32")
    result, _ = machine["main"](tvm.runtime.tensor(x), *weights)
    np.testing.assert_array_equal(result.numpy(), x + LARGE.value.numpy())
