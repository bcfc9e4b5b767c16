from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvm_sparse.passes.canonicalize.gather_whole import GatherWhole

OP = relax.op


def module(build, sizes=None) -> tvm.IRModule:
    """Return a function of a mask ``(batch, tokens)`` that `build` makes."""
    builder = relax.BlockBuilder()
    batch, tokens = sizes or (tirx.Var("batch", "int64"), tirx.Var("tokens", "int64"))
    mask = relax.Var("mask", relax.TensorType((batch, tokens), "float32"))
    with builder.function("main", [mask]):
        with builder.dataflow():
            out = builder.emit_output(build(builder.emit, mask, batch, tokens))
        builder.emit_func_output(out)
    return builder.get()


def column(emit, count, shape):
    return emit(OP.reshape(emit(OP.arange(0, count, 1, "int64")), shape))


def places(emit, batch, tokens, step):
    """Return ``step * i + j``."""
    size = emit(OP.shape_to_tensor(emit(relax.ShapeExpr([step]))))
    i = column(emit, batch, (batch, 1, 1, 1))
    return emit(OP.add(emit(OP.multiply(i, size)), column(emit, tokens, (1, 1, 1, tokens))))


def flat(emit, mask, batch, tokens, step=None):
    rows = emit(OP.reshape(mask, (batch * tokens,)))
    return OP.take(rows, places(emit, batch, tokens, tokens if step is None else step), axis=0)


def pairs(emit, mask, batch, tokens, turned=False):
    shape = (batch, 1, 1, tokens, 1)
    parts = [
        emit(OP.broadcast_to(column(emit, batch, (batch, 1, 1, 1, 1)), shape)),
        emit(OP.broadcast_to(column(emit, tokens, (1, 1, 1, tokens, 1)), shape)),
    ]
    return OP.gather_nd(mask, emit(OP.concat(parts[::-1] if turned else parts, 4)))


def from_flat(emit, x, batch, tokens):
    rows = emit(OP.reshape(x, (batch * tokens,)))
    return OP.reshape(rows, (batch, 1, 1, tokens))


def from_mask(emit, x, batch, tokens):
    return OP.reshape(x, (batch, 1, 1, tokens))


@pytest.mark.parametrize(("build", "result"), [(flat, from_flat), (pairs, from_mask)])
def test_all_places_in_order_are_a_reshape(build, result):
    wanted = module(result)
    tvm.ir.assert_structural_equal(GatherWhole()(module(build))["main"], wanted["main"])


def test_places_may_be_constants():
    index = relax.const(np.arange(6).reshape(2, 3), "int64")

    def build(emit, x, *sizes):
        return OP.take(emit(OP.reshape(x, (6,))), index, axis=0)

    after = GatherWhole()(module(build, (2, 3)))
    names = [b.value.op.name for b in after["main"].body.blocks[0].bindings]
    assert "relax.take" not in names


@pytest.mark.parametrize(
    "build",
    [
        lambda emit, x, batch, tokens: flat(emit, x, batch, tokens, batch),
        lambda emit, x, batch, tokens: pairs(emit, x, batch, tokens, turned=True),
        lambda emit, x, batch, tokens: OP.take(x, relax.const([0, 1], "int64"), axis=1),
        lambda emit, x, batch, tokens: OP.take(x, relax.const([0, 0], "int64"), axis=1),
    ],
)
def test_other_places_stay(build):
    before = module(build)
    tvm.ir.assert_structural_equal(GatherWhole()(before), before)
