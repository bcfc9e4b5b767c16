from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from tvm_sparse.costs.elementwise import FUNCTIONS, operations_of, parse
from tvm_sparse.cpu.profile import native
from tvm_sparse.schedules.emit.elementwise import EXPRESSIONS, expression
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.elementwise import elementwise
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import run_kernel

REFERENCES = {
    "abs": np.abs,
    "clip(-0.5, 0.75)": lambda x: np.clip(x, -0.5, 0.75),
    "erf": scipy.special.erf,
    "exp": np.exp,
    "negative": np.negative,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "power": np.power,
}
POSITIVE = ("log", "sqrt", "rsqrt", "power")


def test_every_function_has_an_expression():
    assert set(EXPRESSIONS) == set(FUNCTIONS)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("lanes", [4, 16, 40])
def test_numbers(name, lanes):
    function, _ = parse(name)
    rng, shape = np.random.default_rng(0), (6, 5, lanes)
    arrays = [rng.standard_normal(shape).astype("float32") for _ in range(function.operands)]
    if function.name in POSITIVE:
        arrays[0] = np.abs(arrays[0])
    tensor = Tensor(2, 3, 5, lanes)
    got = run_kernel(elementwise(name, tensor, [shape] * len(arrays), native()), arrays, shape)
    np.testing.assert_allclose(got, REFERENCES[name](*arrays), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["mish", "leaky_relu", "relu(1)", "clip(0)", ""])
def test_unknown_functions(name):
    with pytest.raises(ValueError, match=r"unknown function .*clip\(low, high\)"):
        expression(name)


def test_what_no_epilogue_can_end_with():
    with pytest.raises(ValueError, match="no epilogue can end with exp"):
        Epilogue(activation="exp")


def test_parameters_do_not_change_the_cost():
    assert operations_of("clip(0.0, 1.0)") == FUNCTIONS["clip"].operations


@pytest.mark.parametrize("name", ["maximum", "minimum", "clip(-1, 2)", "relu", "relu6"])
def test_limits_keep_nan(name):
    references = {"clip": lambda x: np.clip(x, -1, 2), "relu": lambda x: np.maximum(x, 0)}
    references["relu6"] = lambda x: np.clip(x, 0, 6)
    function, _ = parse(name)
    special = np.float32([np.nan, np.inf, -np.inf, 0, 1, -3, 9])
    arrays = [np.resize(np.roll(special, i), (6, 5, 16)) for i in range(function.operands)]
    shapes = [array.shape for array in arrays]
    got = run_kernel(elementwise(name, Tensor(2, 3, 5, 16), shapes, native()), arrays, shapes[0])
    reference = references.get(function.name) or getattr(np, function.name)
    np.testing.assert_array_equal(got, reference(*arrays))
