from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.special
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.schedules.emit import vector_math
from tvm_sparse.schedules.emit.elementwise import expression

ACTIVATIONS = (
    *("relu", "relu6", "hardswish", "gelu", "gelu_tanh", "silu", "sigmoid", "softplus", "tanh"),
)
EDGES = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 88.7, 88.8, 104, -87.3, -87.4, -104, 3.92, -5.5437]
CHUNK = 4096


def kernel(function, lanes: int) -> tvm.tirx.PrimFunc:
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        x = T.arg("x", T.buffer((CHUNK,), "float32"))
        y = T.arg("y", T.buffer((CHUNK,), "float32"))
        with T.serial(T.int64(0), T.int64(CHUNK // lanes)) as i, T.sblock("apply"):
            T.reads(x[0:CHUNK])
            T.writes(y[0:CHUNK])
            place = T.Ramp(i * lanes, T.int64(1), lanes) if lanes > 1 else i
            T.buffer_store(y, function(x[place]), [place])
    return builder.get()


def library(name: str, lanes: int, cpu=None):
    module = tvm.IRModule({"main": kernel(expression(name), lanes)})
    return tvm.compile(module, target=(cpu or native()).to_target())


def apply(lib, x: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-x.size // CHUNK) * CHUNK, "float32")
    padded[: x.size] = x
    results = []
    for part in padded.reshape(-1, CHUNK):
        y = tvm.runtime.tensor(np.zeros(CHUNK, "float32"))
        lib["main"](tvm.runtime.tensor(part), y)
        results.append(y.numpy())
    return np.concatenate(results)[: x.size]


def dense_sweep() -> np.ndarray:
    """Every 8191st float32 of both signs, and ranges where the functions bend."""
    bits = np.arange(0, 0x7F800000, 8191, dtype=np.uint32)
    positive = bits.view(np.float32)
    bends = np.concatenate([np.linspace(-10, 10, 200_001), np.linspace(-110, 110, 100_001)])
    return np.concatenate([positive, -positive, bends, EDGES]).astype("float32")


def reference(name: str, x: np.ndarray) -> np.ndarray:
    x = x.astype("float64")
    sigmoid = scipy.special.expit
    return {
        "exp": lambda: np.exp(x),
        "log": lambda: np.log(x),
        "softplus": lambda: np.where(x > 0, x, 0) + np.log1p(np.exp(-np.abs(x))),
        "tanh": lambda: np.tanh(x),
        "erf": lambda: scipy.special.erf(x),
        "sigmoid": lambda: sigmoid(x),
        "gelu": lambda: x * scipy.special.ndtr(x),
        "gelu_tanh": lambda: x * sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
        "silu": lambda: x * sigmoid(x),
        "relu": lambda: np.maximum(x, 0),
        "relu6": lambda: np.clip(x, 0, 6),
        "hardswish": lambda: x * np.clip(x / 6 + 0.5, 0, 1),
    }[name]()


ULP = {
    "exp": 1.5,
    "log": 1.5,
    "tanh": 4,
    "erf": 4,
    "sigmoid": 3,
    "softplus": 3,
    "relu": 0,
    "relu6": 0,
}


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sigmoid", *ACTIVATIONS])
def test_error_bounds(name):
    x = dense_sweep()
    if name == "log":
        x = x[x > 0]
    with np.errstate(over="ignore", under="ignore"):
        want = reference(name, x)
        rounded = want.astype("float32")
    got = apply(library(name, native().vector_lanes()), x)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    error = np.abs(got[finite] - want[finite])
    if name in ULP:
        ulp = np.maximum(np.spacing(np.abs(rounded[finite])), 2.0**-149).astype("float64")
        flushed = 2.0**-126 if name in ("exp", "sigmoid", "softplus") else 2.0**-149
        bound = np.where(np.abs(want[finite]) < 2.0**-126, flushed, ULP[name] * ulp)
    else:
        bound = 2e-7 * np.maximum(1, np.abs(x[finite]))
    worst = np.argmax(error / np.maximum(bound, 1e-300))
    assert np.all(error <= bound), (x[finite][worst], got[finite][worst], want[finite][worst])


def test_log1p():
    x = dense_sweep()
    x = np.append(x[x > -1], np.float32([-1, -1.5, -np.inf, np.inf, np.nan, 3e38]))
    with np.errstate(invalid="ignore", divide="ignore"):
        want = np.log1p(x.astype("float64"))
    module = tvm.IRModule({"main": kernel(vector_math.log1p, native().vector_lanes())})
    got = apply(tvm.compile(module, target=native().to_target()), x)
    normal = np.abs(x) >= 2.0**-126
    np.testing.assert_allclose(got[normal], want[normal], rtol=2e-7)
    np.testing.assert_allclose(got[~normal], want[~normal], rtol=0, atol=2.0**-148)


def test_limits():
    x = np.array([np.inf, -np.inf, np.nan], "float32")
    lanes = native().vector_lanes()
    limits = {
        "exp": (np.inf, 0), "tanh": (1, -1), "erf": (1, -1), "sigmoid": (1, 0),
        "log": (np.inf, np.nan), "softplus": (np.inf, 0), "relu": (np.inf, 0), "relu6": (6, 0),
    }  # fmt: skip
    for name, (above, below) in limits.items():
        np.testing.assert_array_equal(apply(library(name, lanes), x), [above, below, np.nan])
    for name in ACTIVATIONS:
        assert np.isnan(apply(library(name, lanes), x)[2])
    np.testing.assert_array_equal(
        apply(library("log", lanes), np.array([0, -1], "float32")), [-np.inf, np.nan]
    )


def test_scalar_equals_vector():
    x = np.linspace(-9, 9, CHUNK).astype("float32")
    for name in ("exp", "tanh", "gelu"):
        scalar = apply(library(name, 1), x)
        vector = apply(library(name, native().vector_lanes()), x)
        np.testing.assert_allclose(scalar, vector, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize(("cpu", "register"), [("haswell", "ymm"), ("skylake-avx512", "zmm")])
def test_code_is_vectorized_without_calls(cpu, register):
    for name in ("exp", "log", "tanh", "gelu", "hardswish"):
        lib = library(name, profile(cpu).vector_lanes(), profile(cpu))
        body = lib.mod.inspect_source("s").split("_compute_:")[-1]
        assert not re.search(r"call\w*\s+\*?(exp|log|tanh|erf|floor)", body)
        assert re.search(rf"vfn?m\w+ps\s.*%{register}", body), name


def test_code_for_neon():
    target = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}
    module = tvm.IRModule({"main": kernel(expression("gelu"), 4)})
    source = tvm.compile(module, target=tvm.target.Target(target)).mod.inspect_source("s")
    assert re.search(r"fmla\s+v\d+\.4s", source)


@pytest.mark.parametrize("lanes", [1, 16])
def test_leaky_relu(lanes):
    function = expression("leaky_relu(0.125)")
    module = tvm.IRModule({"main": kernel(function, lanes)})
    x = np.array([-np.inf, -8, -0.0, 0, 3, np.inf, np.nan], "float32")
    y = apply(tvm.compile(module, target=native().to_target()), x)
    np.testing.assert_array_equal(y, [-np.inf, -1, 0, 0, 3, np.inf, np.nan])


def test_unknown_function():
    with pytest.raises(ValueError, match=r"unknown function 'mish'.*leaky_relu\(slope\)"):
        expression("mish")
