from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_sparse.costs.elementwise import FUNCTIONS
from tvm_sparse.cpu.profile import profile
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.operators import stages
from tvm_sparse.passes.ir.operators.stages import operands_of, stage_of
from tvm_sparse.passes.ir.operators.table import RECORDS
from tvm_sparse.passes.lower.lower_operators import KERNELS

CPU = profile("skylake-avx512")
PANELS = (12, 8, 16)


def tensor(*shape, dtype="float32"):
    return relax.Var("x", relax.TensorType(shape, dtype))


def normalized(call):
    return relax.BlockBuilder().normalize(call)


def pair(value):
    return relax.Var("both", relax.TupleType([value.ty, value.ty]))


def constant(*shape):
    return relax.const(np.ones(shape, "float32"))


def linear(**epilogue):
    call = operators.linear(tensor(*PANELS), constant(1, 8, 8), 8)
    return normalized(operators.with_epilogue(call, **epilogue))


def test_names_are_unique():
    assert len(RECORDS) == len(operators.OPERATORS)


def test_every_operator_of_this_package_can_be_lowered():
    own = {name for name, operator in operators.OPERATORS.items() if operator.is_own}
    by_tvm = {operators.HARDSWISH.name, operators.SOFTPLUS.name, operators.FAKE_QUANTIZE.name}
    by_tvm.add(operators.QUANTIZE_TO_EVEN.name)
    assert own - by_tvm == set(KERNELS)
    assert set(operators.WITH_EPILOGUE) <= own
    assert set(operators.CONVOLUTIONS) <= set(operators.WITH_EPILOGUE)


def test_every_elementwise_function_is_an_operator():
    for function in FUNCTIONS.values():
        assert tvm.ir.Op.get(function.relax) is not None
        assert operators.OPERATORS[function.relax].stage is not None


def test_operands_have_names():
    bias, residual = constant(8), tensor(*PANELS)
    assert list(operands_of(linear())) == ["x", "weight"]
    assert list(operands_of(linear(residual=residual))) == ["x", "weight", "residual"]
    both = operators.with_epilogue(linear(residual=residual), bias=bias)
    assert list(operands_of(both)) == ["x", "weight", "bias", "residual"]
    assert operators.LINEAR.operand(both, "bias").same_as(bias)
    assert operators.LINEAR.operand(both, "residual").same_as(residual)
    with pytest.raises(KeyError):
        operators.LINEAR.operand(linear(), "bias")


def test_operands_of_a_tuple_are_numbered():
    call = relax.op.concat([tensor(*PANELS), tensor(*PANELS)], axis=1)
    assert list(operands_of(call)) == ["x0", "x1"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: relax.op.concat([tensor(*PANELS)] * 2, axis=2),
        lambda: relax.op.strided_slice(tensor(*PANELS), [2], [0], [8]),
        lambda: relax.op.strided_slice(tensor(*PANELS), [1], [0], [8], [2]),
        lambda: relax.op.strided_slice(tensor(*PANELS), [0, 1], [0, 0], [8, 4]),
        lambda: relax.op.add(tensor(*PANELS), tensor(1, 1, 16)),
        lambda: relax.op.add(tensor(12, 8), tensor(12, 8)),
        lambda: relax.op.nn.relu(tensor(12, 8, 7)),
        lambda: relax.op.concat([tensor(12, 8, 1)] * 2, axis=1),
        lambda: relax.op.concat(pair(tensor(*PANELS)), axis=1),
        lambda: relax.op.nn.relu(tensor(*PANELS, dtype="float16")),
        lambda: relax.op.sin(tensor(*PANELS)),
        lambda: tensor(*PANELS),
    ],
    ids=lambda body: None,
)
def test_what_is_no_stage(call):
    call = call()
    assert stage_of(normalized(call) if isinstance(call, relax.Call) else call, 1, CPU) is None


def test_rows_of_several_images_must_divide():
    call = normalized(relax.op.nn.relu(tensor(*PANELS)))
    assert stage_of(call, 3, CPU) is not None
    assert stage_of(call, 5, CPU) is None


@pytest.mark.parametrize("lanes", [1, 5, 7, 18])
def test_tensors_of_other_lanes_than_whole_vectors_are_no_panels(lanes):
    operators_of_three_axes = [
        relax.op.nn.relu(tensor(12, 8, lanes)),
        relax.op.add(tensor(12, 8, lanes), tensor(12, 8, lanes)),
        relax.op.concat([tensor(12, 8, lanes), tensor(12, 8, lanes)], axis=1),
        relax.op.strided_slice(tensor(12, 8, lanes), [1], [0], [3]),
    ]
    assert all(stage_of(normalized(call), 1, CPU) is None for call in operators_of_three_axes)


def test_a_slice_from_the_end_is_a_stage():
    stage = stage_of(normalized(relax.op.strided_slice(tensor(*PANELS), [1], [-3], [-1])), 1, CPU)
    assert (stage.begin, stage.tensor.channels) == (5, 2)


def test_errors_of_a_stage_are_not_hidden(monkeypatch):
    def fails(*_arguments):
        raise ValueError("an error in a constructor")

    broken = dataclasses.replace(operators.LINEAR, stage=fails)
    monkeypatch.setitem(operators.OPERATORS, broken.name, broken)
    with pytest.raises(ValueError, match="an error in a constructor"):
        stages.stage_of(linear(), 1, CPU)
