"""Rounding without divisions gives the integers of a division."""

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.building import build
from tvm_sparse.cpu.profile import native
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.ir import operators
from tvm_sparse.testing.models import run


def rounded(x, scale, zero, axis, *, is_known, to_even=False):
    """Return the result of `quantize`, with constants or with inputs."""
    values = [scale, zero]
    params = [
        relax.Var(n, relax.TensorType(v.shape, str(v.dtype)))
        for n, v in zip("xsz", [x, *values], strict=True)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", params[:1] if is_known else params):
        with builder.dataflow():
            numbers = [relax.const(v) for v in values] if is_known else params[1:]
            quantize = operators.quantize_to_even if to_even else relax.op.quantize
            q = quantize(params[0], *numbers, axis, str(zero.dtype))
            y = builder.emit_output(builder.emit(q))
        builder.emit_func_output(y)
    mod = tvm.transform.Sequential(pipeline.lower(native()))(builder.get())
    executable = build(relax.get_pipeline("default_build")(mod), native().to_target())
    return run(executable, x, *([] if is_known else values))


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("channels", [0, 7])
@pytest.mark.parametrize("size", [1e-39, 1e-30, 0.03, 1e30])
def test_integers_are_those_of_a_division(is_known, dtype, channels, size):
    rng, bounds = np.random.default_rng(0), np.iinfo(dtype)
    shape = (channels,) if channels else ()
    scale = np.asarray(rng.uniform(0.5, 1, shape) * size, "float32")
    zero = np.asarray(rng.integers(bounds.min, bounds.max, shape), dtype)
    x = (rng.standard_normal((3, 7, 50)) * size * 60).astype("float32")
    x[0, :, :6] = np.float32([np.inf, -np.inf, 0, 1e4 * size, size / 2, -1.5 * size])
    along = (slice(None), None) if channels else ()
    with np.errstate(over="ignore"):
        steps = np.rint(x / scale[along])
    want = np.clip(steps + zero[along].astype("float32"), bounds.min, bounds.max)
    got = rounded(x, scale, zero, 1 if channels else 0, is_known=is_known)
    np.testing.assert_array_equal(got, want.astype(dtype))


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("to_even", [True, False])
@pytest.mark.parametrize("zero", [np.uint8(120), np.uint8(121), np.int8(-3)])
def test_ties_go_to_even_integers_or_to_even_distances(is_known, to_even, zero):
    x, bounds = np.arange(-600, 600, dtype="float32").reshape(1, 3, 400) / 4, np.iinfo(zero.dtype)
    steps = np.rint(x / 0.5 + zero) if to_even else np.rint(x / 0.5) + zero
    want = np.clip(steps, bounds.min, bounds.max).astype(zero.dtype)
    scale = np.asarray(0.5, "float32")
    got = rounded(x, scale, np.asarray(zero), 0, is_known=is_known, to_even=to_even)
    np.testing.assert_array_equal(got, want)
