"""Dense layers on AMX against the product of bfloat16 values in double precision."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_sparse.columns.plans import ColumnPlan
from tvm_sparse.cpu.profile import profile
from tvm_sparse.cpu.this_machine import cpu_flags
from tvm_sparse.dtypes import DType
from tvm_sparse.formats.amx import from_bfloat16, pack_amx_linear, to_bfloat16
from tvm_sparse.schedules import kernel
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.amx_linear import AmxLinear, amx_linear
from tvm_sparse.schedules.tensor_column import Region, tensor_column
from tvm_sparse.sizes.tensor import Tensor
from tvm_sparse.testing.kernels import assembly, run_in_columns, run_kernel
from tvm_sparse.tilings.amx_linear import AmxLinearTiling

needs_amx = pytest.mark.skipif(
    not {"amx_bf16", "avx512_bf16", "avx512_fp16"} <= cpu_flags(),
    reason="this processor has no matrix unit for bfloat16 (AMX)",
)
PLAIN = Epilogue()
FULL = Epilogue(bias=True, residual=True, activation="relu")


def amx_cpu(cores):
    return replace(profile("sapphirerapids"), cores=cores)


def rounded(array):
    return from_bfloat16(to_bfloat16(np.asarray(array, "float32"))).astype("float64")


def operands(rows, lanes, n, k, epilogue, inputs):
    """Return the operands of a layer, and its result in double precision."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((n, k)).astype("float32")
    x = rng.standard_normal((rows, k, lanes)).astype("float16")
    expected = np.einsum("nk,rkl->rnl", rounded(weight), rounded(x))
    arrays = [x, pack_amx_linear(weight, inputs)]
    if epilogue.bias:
        arrays.append(rng.standard_normal(n).astype("float16"))
        expected += arrays[-1][:, None]
    if epilogue.residual:
        arrays.append(rng.standard_normal((rows, n, lanes)).astype("float16"))
        expected += arrays[-1]
    if epilogue.activation == "relu":
        expected = np.maximum(expected, 0)
    return arrays, expected


def assert_near(y, expected):
    """Compare a float16 result; float32 sums add little to its own rounding."""
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, expected, rtol=6e-4, atol=1e-5 * np.abs(expected).max() + 1e-7)


@needs_amx
@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 100),
    k=st.integers(1, 200),
    rows=st.integers(1, 5),
    lanes=st.sampled_from([8, 16, 32, 48, 64, 80]),
    inputs=st.sampled_from([32, 64, 256]),
    epilogue=st.sampled_from([PLAIN, FULL, Epilogue(bias=True), Epilogue(residual=True)]),
    cores=st.integers(1, 3),
)
def test_any_size(n, k, rows, lanes, inputs, epilogue, cores):
    cpu = amx_cpu(cores)
    arrays, expected = operands(rows, lanes, n, k, epilogue, inputs)
    func = amx_linear(rows, lanes, n, k, epilogue, cpu, AmxLinearTiling(inputs))
    assert_near(run_kernel(func, arrays, expected.shape, cpu), expected)


@needs_amx
@pytest.mark.parametrize(("n", "k"), [(1700, 70), (800, 600)])
@pytest.mark.parametrize("cores", [1, 2])
def test_several_groups_of_channels(n, k, cores):
    cpu = amx_cpu(cores)
    arrays, expected = operands(3, 48, n, k, FULL, 64)
    func = amx_linear(3, 48, n, k, FULL, cpu, AmxLinearTiling(64))
    assert_near(run_kernel(func, arrays, expected.shape, cpu), expected)


@needs_amx
@pytest.mark.parametrize("n", [640, 1700])
def test_one_thread_of_a_region_computes_all_chunks(n):
    cpu = amx_cpu(2)
    stage = AmxLinear(Tensor(1, 2, 200, 64, DType.FLOAT16), n, PLAIN, cpu, AmxLinearTiling(64))
    assert stage.chunks == 2
    (x, weight), expected = operands(2, 64, n, 200, PLAIN, 64)
    arrays = {"x": x, "weight": weight}
    assert_near(run_in_columns(stage, arrays, ColumnPlan(2, 2), cpu), expected)


@needs_amx
def test_gelu_of_the_sums():
    cpu = amx_cpu(2)
    epilogue = Epilogue(activation="gelu_tanh")
    arrays, sums = operands(2, 64, 64, 16, epilogue, 32)
    func = amx_linear(2, 64, 64, 16, epilogue, cpu, AmxLinearTiling(32))
    expected = sums * (1 + np.tanh(np.sqrt(2 / np.pi) * (sums + 0.044715 * sums**3))) / 2
    y = run_kernel(func, arrays, expected.shape, cpu)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=4e-3)


@needs_amx
def test_infinite_inputs_stay_in_their_lane():
    cpu = amx_cpu(1)
    arrays, expected = operands(1, 32, 20, 40, PLAIN, 64)
    arrays[0][0, 3, 5] = np.inf
    y = run_kernel(amx_linear(1, 32, 20, 40, PLAIN, cpu), arrays, expected.shape, cpu)
    others = np.arange(32) != 5
    assert_near(y[..., others], expected[..., others])
    assert not np.isfinite(y[..., 5]).any()


@needs_amx
@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("lanes", [8, 16, 64])
def test_two_layers_in_columns(step, lanes):
    """The first layer's rows stay in scratch memory, from which the second one takes them."""
    rows, cpu = 7, amx_cpu(2)
    epilogue = Epilogue(bias=True)
    first, hidden = operands(rows, lanes, 40, 50, epilogue, 64)
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((24, 40)).astype("float32")
    expected = np.einsum("nk,rkl->rnl", rounded(weight), rounded(hidden.astype("float16")))
    stages = (
        AmxLinear(Tensor(1, rows, 50, lanes, DType.FLOAT16), 40, epilogue, cpu),
        AmxLinear(Tensor(1, rows, 40, lanes, DType.FLOAT16), 24, PLAIN, cpu),
    )
    source = stages[0].source
    region = Region(stages, ({"x": -1}, {"x": 0}), inputs=(source,), outputs=(1,))
    func = tensor_column(region, ColumnPlan(4, step))
    y = run_kernel(func, [*first, pack_amx_linear(weight, 64)], expected.shape, cpu)
    # A hidden value may round to the other neighbour in bfloat16.
    np.testing.assert_allclose(y, expected, atol=3e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("lanes", "n", "k"), [(64, 768, 768), (16, 40, 100), (48, 16, 33), (128, 3072, 768)]
)
def test_compiles_for_another_machine(lanes, n, k):
    cpu = amx_cpu(2)
    text = assembly(amx_linear(2, lanes, n, k, FULL, cpu), cpu)
    for instruction in ("ldtilecfg", "tdpbf16ps", "tilerelease", "vcvtne2ps2bf16", "syscall"):
        assert instruction in text


def test_a_target_without_the_unit_is_refused():
    cpu = profile("skylake-avx512")
    with pytest.raises(ValueError, match="no AMX"):
        amx_linear(2, 64, 32, 32, PLAIN, cpu)


def test_threads_share_rows_or_channels():
    cpu = amx_cpu(2)

    def stage(rows, lanes=64, n=768):
        return AmxLinear(Tensor(1, rows, 64, lanes, DType.FLOAT16), n, PLAIN, cpu)

    assert (stage(2).row_block, stage(2).chunks) == (2, 2)
    assert (stage(4).row_block, stage(4).chunks) == (2, 1)
    assert (stage(56, 64).row_block, stage(56, 64).chunks) == (28, 1)
    assert stage(1, n=16).chunks == 1
    assert kernel(stage(2)) is not None
