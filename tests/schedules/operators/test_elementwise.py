"""Elementwise stages against NumPy, as kernels and run by run in scratch memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.costs.elementwise import FUNCTIONS
from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.cpu.this_machine import cpu_flags
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.quantization import Quantization
from tvm_sparse.schedules.operators.elementwise import Elementwise, elementwise
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel

BINARY = sorted({f.name for f in FUNCTIONS.values() if f.operands == 2} - {"power"})
KINDS = ("panels", "one lane", "channels", "value")


def shape_of(kind: str, tensor: Tensor) -> tuple[int, ...]:
    rows = tensor.images * tensor.rows
    return {
        "panels": (rows, tensor.channels, tensor.lanes),
        "one lane": (rows, tensor.channels, 1),
        "channels": (tensor.channels, 1),
        "value": (),
    }[kind]


def operands(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [np.asarray(random.uniform(0.5, 2, shape), "float32") for shape in shapes]


@settings(max_examples=15, deadline=None)
@given(
    operator=st.sampled_from(BINARY),
    kinds=st.permutations(KINDS).map(lambda kinds: kinds[:2]),
    sizes=st.tuples(*(st.integers(1, n) for n in (2, 7, 5))),
    lanes=st.sampled_from([8, 16, 24, 144]),
    run_rows=st.integers(1, 4),
)
def test_two_operands(operator, kinds, sizes, lanes, run_rows):
    tensor, cpu = Tensor(*sizes, lanes), native()
    shapes = [shape_of(kind, tensor) for kind in kinds]
    arrays = operands(shapes)
    shape = shape_of("panels", tensor)
    want = np.broadcast_to(getattr(np, operator)(*arrays), shape)
    stage = Elementwise(operator, tensor, shapes, cpu)
    named = {f"x{i}": array for i, array in enumerate(arrays)}
    for got in (
        run_kernel(elementwise(operator, tensor, shapes, cpu), arrays, shape),
        run_in_columns(stage, named, ColumnPlan(5, run_rows)),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "reference"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("leaky_relu(0.1)", lambda x: np.where(x < 0, 0.1 * x, x)),
        ("tanh", np.tanh),
    ],
)
def test_activations(operator, reference):
    tensor = Tensor(2, 5, 3, 40)
    x = np.random.default_rng(0).standard_normal((10, 3, 40)).astype("float32")
    stage = Elementwise(operator, tensor, [x.shape], native())
    got = run_in_columns(stage, {"x0": x}, ColumnPlan(3, 2))
    np.testing.assert_allclose(got, reference(x), rtol=1e-6)


def test_which_operands_are_panels():
    tensor = Tensor(2, 3, 4, 16)
    stage = Elementwise("add", tensor, [(4, 1), (6, 4, 16)], native())
    assert stage.panels == {"x1": (tensor, RowMap())}
    assert stage.weight_bytes() == 4 * 4
    stage = Elementwise("multiply", tensor, [(6, 4, 16), (6, 4, 1)], native())
    assert stage.panels == {"x0": (tensor, RowMap()), "x1": (Tensor(2, 3, 4, 1), RowMap())}


def test_longer_functions_are_expected_to_take_longer():
    tensor = Tensor(1, 3, 4, 16)
    cycles = [
        Elementwise(name, tensor, [(3, 4, 16)], native()).cycles() for name in ("relu", "gelu")
    ]
    assert 0 < cycles[0] < cycles[1]


@pytest.mark.parametrize(
    ("operator", "shapes", "message"),
    [
        ("relu", [(3, 4, 16)] * 2, "relu does not take 2 operands"),
        ("add", [(3, 4, 16), (16,)], r"an operand of shape \(16,\) does not broadcast"),
        ("hypot", [(3, 4, 16)], "unknown function 'hypot'"),
    ],
)
def test_what_it_cannot_do(operator, shapes, message):
    with pytest.raises(ValueError, match=message):
        Elementwise(operator, Tensor(1, 3, 4, 16), shapes, native())


def test_whole_vectors():
    cpu = profile("skylake-avx512")
    func = elementwise("maximum", Tensor(1, 3, 8, 32), [(3, 8, 32), (8, 1)], cpu)
    assert "vmaxps" in assembly(func, cpu)
    assert "%zmm" in assembly(func, cpu)


@pytest.mark.parametrize(
    "numbers", [(0.25, 3, 0, 255), (0.1, 0, -128, 127), (1e-5, 200, 0, 255), (0.25, 3, 0, 255, 1)]
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rounding_to_the_integers_of_some_bits(numbers, dtype):
    """Ties go to the distance of the right parity; what is beyond the integers ends there."""
    steps, tensor = Quantization(*numbers), Tensor(1, 3, 5, 16, DType(dtype))
    cpu = native() if dtype == "float32" else profile("sapphirerapids")
    if dtype == "float16" and "avx512_fp16" not in cpu_flags():
        pytest.skip("this processor has no float16 arithmetic")
    x = np.random.default_rng(0).standard_normal(tensor.shape) * 100 * steps.scale
    x[0, 0, :4] = np.array([0.5, 1.5, -0.5, 2.5]) * steps.scale
    x[0, 1, :3] = [np.inf, -np.inf, np.nan]
    x = x.astype(dtype)
    name = f"fake_quantize({', '.join(str(float(n)) for n in numbers)})"
    got = run_kernel(elementwise(name, tensor, [tensor.shape], cpu), [x], tensor.shape, cpu)
    want = steps.rounded(np.nan_to_num(x.astype("float32"), posinf=1e30, neginf=-1e30))
    want[np.isnan(x)] = np.nan
    np.testing.assert_array_equal(got, want.astype(dtype))
