"""The call that computes a quantized layer by a kernel of integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.formats.quantization import QuantizedWeight, RoundedBefore, shifts_of
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.sparsify.constant_layers import ConstantLayer
from tvm_sparse.schedules.operators.int8_layer import packed_int8
from tvm_sparse.schedules.operators.int8_rows import pack_int8_rows
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.families import family_of
from tvm_sparse.tilings.int8_conv2d import IntegerWindows
from tvm_sparse.tilings.int8_rows import Int8RowTiling
from tvm_sparse.tilings.integers import IntegerFamily


def is_of_integers(tiling: Any) -> bool:
    """Return whether a kernel multiplies integers."""
    return isinstance(family_of(tiling), IntegerFamily)


def quantized_layer(
    panels: relax.Expr, found: ConstantLayer, tiling: Any, cpu: CpuProfile
) -> relax.Call:
    """Return the call that computes a quantized layer on the panels of its operand."""
    assert found.quantized is not None
    steps = None if found.steps is None else found.steps.value
    return layer_of_integers(panels, found.layer.problem, found.quantized, steps, tiling, cpu)


def layer_of_integers(
    panels: relax.Expr,
    problem: Any,
    quantized: QuantizedWeight,
    run_time_steps: relax.Expr | None,
    tiling: Any,
    cpu: CpuProfile,
) -> relax.Call:
    """Return the call that computes a layer of some sizes by a weight of integers."""
    family = family_of(tiling)
    values, known = quantized.values, quantized.steps
    scales = relax.const(quantized.scale * np.float32(1 if known is None else known.scale))
    assert isinstance(family, IntegerFamily)
    is_shifted = quantized.is_wide and family.per_word(cpu) == 4
    given = [relax.const(shifts_of(values))] if is_shifted else []
    given += [] if run_time_steps is None else [run_time_steps]
    if isinstance(tiling, Int8RowTiling):
        matrix = values.reshape(problem.n, problem.k)
        weight, corrections = map(relax.const, pack_int8_rows(matrix, tiling, cpu))
        weights = [weight, scales, corrections, *given]
        return operators.int8_row_linear(panels, weights, problem, family.to_fields(tiling))
    if isinstance(problem, Linear):
        matrix = values.reshape(problem.n, problem.k)
        *weight, corrections = map(relax.const, packed_int8(matrix, known, tiling, cpu))
        weights = [*weight, scales, corrections, *given]
        steps = known or RoundedBefore(problem.k, problem.dtype)
        fields = problem.n, steps, family.to_fields(tiling)
        return operators.int8_linear(family, panels, weights, *fields, is_shifted=is_shifted)
    assert isinstance(family, IntegerWindows)
    window = family.window(problem, cpu)
    matrix, distances = window.matrix(values), relax.const(window.offsets())
    *weight, corrections = map(relax.const, packed_int8(matrix, known, tiling, cpu))
    weights = [*weight, distances, scales, corrections, *given]
    steps = known or RoundedBefore(problem.channels, problem.dtype)
    sizes = problem, steps, family.to_fields(tiling)
    return operators.int8_conv2d(family, panels, weights, *sizes, is_shifted=is_shifted)
