from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.flatten_recurrent_rows import FlattenRecurrentRows
from tvm_sparse.passes.ir import operators
from tvm_sparse.sizes.recurrent import Recurrent


def layer(with_bias: bool, x_shape: tuple[int, ...]) -> tvm.IRModule:
    """An RNN of 8 hidden units on 7 steps of 3 sequences, whose inputs are `x_shape`."""
    x = relax.Var("x", relax.TensorType(list(x_shape), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            value = builder.emit(relax.op.matmul(x, relax.const(np.ones((16, 8), "float32"))))
            if with_bias:
                value = builder.emit(relax.op.add(value, relax.const(np.ones(8, "float32"))))
            value = builder.emit(relax.op.reshape(value, (7, 3, 8)))
            weight = relax.const(np.ones((1, 8, 8), "float32"))
            call = operators.recurrent(Recurrent("rnn", 7, 3, 8), {"xw": value, "r": weight})
            results = builder.emit(call)
            y = builder.emit_output(relax.TupleGetItem(results, 0))
        builder.emit_func_output(y)
    return builder.finalize()


def products(mod: tvm.IRModule) -> list[tuple[int, ...]]:
    bindings = (b for block in mod["main"].body.blocks for b in block.bindings)
    calls = (b.value for b in bindings if isinstance(b.value, relax.Call))
    of_products = (call for call in calls if call.op.name == "relax.matmul")
    return [tuple(int(extent) for extent in call.ty.shape) for call in of_products]


@pytest.mark.parametrize("with_bias", [False, True])
def test_steps_and_sequences_become_one_axis(with_bias):
    mod = FlattenRecurrentRows()(layer(with_bias, (7, 3, 16)))
    assert products(mod) == [(21, 8)]


def test_one_axis_stays_as_it_is():
    mod = layer(True, (21, 16))
    tvm.ir.assert_structural_equal(FlattenRecurrentRows()(mod), mod)
