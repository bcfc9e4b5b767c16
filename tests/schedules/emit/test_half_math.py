"""Elementary functions of all 65,536 float16 numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.special
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.costs.elementwise import FUNCTIONS
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.schedules.emit.elementwise import HALF_EXPRESSIONS, expression
from tvm_sparse.schedules.emit.half_math import exp_of_negative

ALL = np.arange(1 << 16, dtype="uint16").view("float16")
FINITE = np.isfinite(ALL)

needs_half = pytest.mark.skipif(
    not native().has_half, reason="this processor has no float16 arithmetic"
)


def kernel(function, lanes: int) -> tvm.tirx.PrimFunc:
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        x, y = (T.arg(name, T.buffer((ALL.size,), "float16")) for name in "xy")
        with T.serial(T.int64(0), T.int64(ALL.size // lanes)) as i, T.sblock("apply"):
            T.reads(x[0 : ALL.size])
            T.writes(y[0 : ALL.size])
            place = T.Ramp(i * lanes, T.int64(1), lanes) if lanes > 1 else i
            T.buffer_store(y, function(x[place]), [place])
    return builder.get()


def library(function, lanes: int, cpu):
    return tvm.compile(tvm.IRModule({"main": kernel(function, lanes)}), target=cpu.to_target())


def of_all(function, lanes: int = 32) -> np.ndarray:
    """Return a function of all numbers, in their order."""
    y = tvm.runtime.tensor(np.zeros(ALL.size, "float16"))
    library(function, lanes, native())["main"](tvm.runtime.tensor(ALL), y)
    return y.numpy()


REFERENCES = {
    "abs": np.abs,
    "clip(-0.5, 0.75)": lambda x: np.clip(x, -0.5, 0.75),
    "erf": scipy.special.erf,
    "exp": np.exp,
    "fake_quantize(0.25, 3, 0, 255)": lambda x: np.clip(np.rint(x * 4), -3, 252) / 4,
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "gelu_tanh": lambda x: x * scipy.special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "leaky_relu(0.1)": lambda x: np.where(x < 0, 0.1 * x, x),
    "log": np.log,
    "negative": np.negative,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": scipy.special.expit,
    "silu": lambda x: x * scipy.special.expit(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "sqrt": np.sqrt,
    "tanh": np.tanh,
}
ULPS = {
    **{"abs": 0, "clip(-0.5, 0.75)": 0, "negative": 0, "relu": 0, "relu6": 0},
    **{"erf": 0.51, "log": 0.51, "softplus": 0.51, "sqrt": 0.51, "leaky_relu(0.1)": 0.81},
    **{"fake_quantize(0.25, 3, 0, 255)": 0},
    **{"exp": 1, "sigmoid": 2.5, "tanh": 2, "rsqrt": 1.4},
}
BOUNDS = {"gelu": 9e-4, "gelu_tanh": 9e-4, "silu": 9.2e-4, "hardswish": 8e-4}
"""The largest errors as multiples of an ulp, or of the larger of 1 and the operand."""


def reference(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a function of all numbers as float64, and as float16 where it is finite."""
    with np.errstate(all="ignore"):
        want = REFERENCES[name](ALL.astype("float64"))
        return want, want.astype("float16")


def ulp(want: np.ndarray) -> np.ndarray:
    exponent = np.floor(np.log2(np.maximum(np.abs(want), 2.0**-14)))
    return 2.0 ** (exponent - 10)


def test_every_function_has_an_expression():
    assert set(HALF_EXPRESSIONS) == set(FUNCTIONS)
    unary = {name for name, function in FUNCTIONS.items() if function.operands == 1}
    assert (
        unary
        == {name.split("(")[0] for name in REFERENCES}
        == {name.split("(")[0] for name in (ULPS | BOUNDS)}
    )


@needs_half
@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("lanes", [1, 8, 32])
def test_error_bounds(name, lanes):
    got, (want, rounded) = of_all(expression(name), lanes), reference(name)
    known = FINITE & np.isfinite(rounded)
    error = np.abs(got[known] - want[known])
    if name in ULPS:
        bound = ULPS[name] * ulp(want[known])
    else:
        bound = BOUNDS[name] * np.maximum(1, np.abs(ALL[known].astype("float64")))
    worst = np.argmax(error - bound)
    assert np.all(error <= bound), (ALL[known][worst], got[known][worst], want[known][worst])
    np.testing.assert_array_equal(got[FINITE & ~known], rounded[FINITE & ~known])


@pytest.mark.parametrize("name", REFERENCES)
def test_emulation(name):
    """Where LLVM emulates float16 arithmetic, every operation is rounded by itself."""
    lanes, (want, rounded) = 32, reference(name)
    y = tvm.runtime.tensor(np.zeros(ALL.size, "float16"))
    lib = library(expression(name), lanes, profile("x86-64-v3"))
    lib["main"](tvm.runtime.tensor(ALL), y)
    known = FINITE & np.isfinite(rounded)
    limit = 2e-3 * np.maximum(1, np.abs(ALL[known].astype("float64")))
    error = np.abs(y.numpy()[known] - want[known])
    assert np.all(error <= np.maximum(limit, 0.01 * np.abs(want[known])))


@pytest.mark.parametrize("name", REFERENCES)
def test_special_values(name):
    """NaN stays NaN, and an overflow before the function can be seen behind it."""
    special = np.zeros(ALL.size, "float16")
    special[:3] = np.nan, np.inf, -np.inf
    y = tvm.runtime.tensor(np.zeros(ALL.size, "float16"))
    library(expression(name), 32, native())["main"](tvm.runtime.tensor(special), y)
    nan, above, below = y.numpy()[:3]
    want, rounded = reference(name)
    assert np.isnan(nan)
    assert above == rounded[np.inf == ALL][0]
    assert below == rounded[-np.inf == ALL][0] or np.isnan(want[-np.inf == ALL][0])
    if np.isnan(want[-np.inf == ALL][0]):
        assert not np.isfinite(below)


@needs_half
def test_exp_of_negative():
    got = of_all(exp_of_negative)
    negative = FINITE & (ALL <= 0)
    want = np.exp(ALL[negative].astype("float64"))
    assert np.all(np.abs(got[negative] - want) <= ulp(want))
    assert np.all(got[ALL < -17.4] == 0)
    assert got[ALL == 0][0] == 1


@pytest.mark.parametrize("name", ["exp", "tanh", "gelu", "silu", "hardswish"])
def test_code_is_vectorized(name):
    cpu = profile("skylake-avx512")
    target = {"kind": "llvm", "mtriple": cpu.triple, "mcpu": "sapphirerapids"}
    target["mattr"] = ["-prefer-256-bit"]
    module = tvm.IRModule({"main": kernel(expression(name), 32)})
    code = tvm.compile(module, target=tvm.target.Target(target)).mod.inspect_source("s")
    body = code.split("_compute_:")[-1]
    assert not re.search(r"\tcall|vcvtph|vcvtps2ph", body)
    assert re.search(r"vfn?m\w+ph\s.*%zmm", body)


def test_code_for_neon():
    cpu = profile("rpi5")
    code = library(expression("gelu"), 8, cpu).mod.inspect_source("s")
    assert re.search(r"fmla\s+v\d+\.8h", code)
    assert "fcvt" not in code
