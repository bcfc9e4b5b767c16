"""Indices out of range are an error, whatever they are for; those in range do what they did."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import op

from tvm_sparse.cpu.profile import native
from tvm_sparse.passes.canonicalize.check_indices import CheckIndices

X = np.arange(48, dtype="float32").reshape(6, 8)


def module(operator, x, *others, is_open=False):
    """Return a module of an operator on `x`, which may be of any size, and on others."""
    builder = relax.BlockBuilder()
    shape = [tirx.Var(name, "int64") for name in "nm"] if is_open else x.shape
    types = [relax.TensorType(shape, str(x.dtype))]
    types += [relax.TensorType(np.shape(a), str(a.dtype)) for a in others]
    args = [relax.Var(f"a{i}", ty) for i, ty in enumerate(types)]
    with builder.function("main", args):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(operator(*args)))
        builder.emit_func_output(result)
    return builder.get()


def function(operator, *arrays, is_open=False):
    mod = module(operator, *arrays, is_open=is_open)
    executable = tvm.compile(mod, native().to_target(), relax_pipeline="tvm_sparse")
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    return lambda *given: main(*(tvm.runtime.tensor(np.asarray(a)) for a in given)).numpy()


def scattered(positions, values):
    result = X.copy()
    for position, value in zip(positions, values, strict=True):
        result[tuple(position)] = value
    return result


ROWS = np.ones((3, 8), "float32")
CASES = {
    "take": (lambda x, i: op.take(x, i, 1), [3, 0], X[:, [3, 0]], 8),
    "take of a flat table": (
        lambda x, i: op.take(op.reshape(x, (48,)), i),
        [47, 0],
        X.ravel()[[47, 0]],
        48,
    ),
    "gather_elements": (
        lambda x, i: op.gather_elements(x, i, 0),
        [[5] * 8] * 6,
        np.repeat(X[5:], 6, 0),
        6,
    ),
    "gather_nd": (lambda x, i: op.gather_nd(x, i), [[5, 7], [0, 1]], X[[5, 0], [7, 1]], 8),
    "gather_nd of rows": (lambda x, i: op.gather_nd(x, i), [[5], [0]], X[[5, 0]], 6),
    "scatter_nd": (
        lambda x, i: op.scatter_nd(x, i, relax.const(ROWS)),
        [[1], [5], [0]],
        scattered([[1], [5], [0]], ROWS),
        6,
    ),
    "scatter_nd of values": (
        lambda x, i: op.scatter_nd(x, i, relax.const(ROWS[0, :2])),
        [[1, 2], [5, 7]],
        scattered([[1, 2], [5, 7]], ROWS[0, :2]),
        8,
    ),
    "scatter_elements": (
        lambda x, i: op.scatter_elements(x, i, relax.const(ROWS), axis=0),
        [[4] * 8, [-1] * 8, [0] * 8],
        scattered([[4], [5], [0]], ROWS),
        6,
    ),
}
FIXED = ("take of a flat table", "scatter_nd")
"""The cases that need `x` to be of a fixed size."""


@pytest.mark.parametrize(
    ("name", "dtype", "is_open"),
    [(name, "int64", False) for name in CASES]
    + [(name, "int64", True) for name in CASES if name not in FIXED]
    + [("take", "int32", False), ("scatter_elements", "int32", True)],
)
def test_known_at_run_time_only(name, dtype, is_open):
    operator, indices, wanted, size = CASES[name]
    indices = np.array(indices, dtype)
    main = function(operator, X, indices, is_open=is_open)
    np.testing.assert_array_equal(main(X, indices), wanted)
    for wrong in (size, -size - 1, np.iinfo(dtype).max, np.iinfo(dtype).min):
        bad = indices.copy()
        bad.flat[-1] = wrong
        with pytest.raises(ValueError, match="an index is out of range in"):
            main(X, bad)
    np.testing.assert_array_equal(main(X, indices), wanted)


def test_a_single_index():
    main = function(lambda x, i: op.take(x, i, 0), X, np.array(2))
    np.testing.assert_array_equal(main(X, np.array(5)), X[5])
    with pytest.raises(ValueError, match="for an axis of 6"):
        main(X, np.array(6))


def test_constants_are_checked_at_compile_time():
    inside, expected = (
        module(lambda x, mode=mode: op.take(x, relax.const(np.array([5])), 0, mode), X)
        for mode in ("fast", "clip")
    )
    tvm.ir.assert_structural_equal(CheckIndices()(inside), expected)
    outside = module(lambda x: op.take(x, relax.const(np.array([6])), 0), X)
    with pytest.raises(Exception, match="an index is out of range"):
        CheckIndices()(outside)


def test_constants_for_an_axis_of_any_size():
    first, expected = (
        module(
            lambda x, mode=mode: op.take(x, relax.const(np.array([0])), 1, mode), X, is_open=True
        )
        for mode in ("fast", "clip")
    )
    tvm.ir.assert_structural_equal(CheckIndices()(first), expected)
    main = function(lambda x: op.take(x, relax.const(np.array([7])), 1), X, is_open=True)
    np.testing.assert_array_equal(main(X), X[:, 7:])
    with pytest.raises(ValueError, match=r"an index is out of range in .*for an axis of m"):
        main(X[:, :7])


def test_indices_that_are_clipped_stay():
    clipped = module(lambda x, i: op.take(x, i, 0, mode="clip"), X, np.array([5]))
    tvm.ir.assert_structural_equal(CheckIndices()(clipped), clipped)
