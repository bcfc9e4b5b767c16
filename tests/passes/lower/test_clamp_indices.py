"""Functions read and write inside of their buffers, whatever the indices in memory are."""

import numpy as np
import tvm
from tvm import te, tirx
from tvm_ffi import structural_walk

from tvm_sparse.passes.lower.clamp_indices import ClampIndices

X = np.arange(48, dtype="float32").reshape(6, 8)


def module(index):
    x, i = te.placeholder((6, 8), name="x"), te.placeholder((3,), "int32", name="i")
    y = te.compute((3, 8), lambda r, c: x[index(i, r), c], name="y")
    return tvm.IRModule({"main": te.create_prim_func([x, i, y])})


def test_an_index_that_is_read_cannot_leave_its_axis():
    mod = ClampIndices()(module(lambda i, r: i[r] * 2 + r))
    main = tvm.compile(mod, tvm.target.Target({"kind": "llvm"}))["main"]
    y = tvm.runtime.empty((3, 8))
    rows = np.array([2**30, -(2**30), 1], "int32")
    main(tvm.runtime.tensor(X), tvm.runtime.tensor(rows), y)
    np.testing.assert_array_equal(
        y.numpy(), X[np.clip(rows * 2 + np.arange(3, dtype="int32"), 0, 5)]
    )


def test_an_index_that_is_written_cannot_leave_its_axis():
    i, y = tirx.decl_buffer((3,), "int32", "i"), tirx.decl_buffer((6,), "float32", "y")
    loop = tirx.Var("r", "int32")
    store = tirx.BufferStore(y, tirx.const(1.0, "float32"), [tirx.BufferLoad(i, [loop])])
    body = tirx.For(loop, 0, 3, tirx.ForKind.SERIAL, store)
    mod = ClampIndices()(tvm.IRModule({"main": tirx.PrimFunc([i, y], body)}))
    stores = []
    structural_walk(mod["main"].body, (tirx.BufferStore, stores.append))
    assert isinstance(stores[0].indices[0], tirx.Max)


def test_an_index_that_is_inside_stays():
    for index in (
        lambda i, r: r * 2,
        lambda i, r: tirx.Max(tirx.Min(i[r], 5), 0),
        lambda i, r: tirx.FloorMod(i[r], 6),
    ):
        mod = module(index)
        tvm.ir.assert_structural_equal(ClampIndices()(mod), mod)
