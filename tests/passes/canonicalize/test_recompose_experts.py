"""Products with weights that are chosen for each row, before and after, and by numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

import tvm_sparse
from tvm_sparse.passes.canonicalize.recompose_experts import RecomposeExperts
from tvm_sparse.passes.ir import operators
from tvm_sparse.sizes.expert_linear import ExpertLinear
from tvm_sparse.testing.models import dataflow

EXPERTS, N, K, ROWS = 5, 24, 16, 6
INDICES = np.array([4, 0, 0, 3, 1, 4], "int64")


def stack(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def network(is_turned, weight_first, indices=INDICES, mode="clip"):
    """Return a module that multiplies rows by weights, which are columns or rows of a product."""
    stored = stack(EXPERTS, N, K) if is_turned == (not weight_first) else stack(EXPERTS, K, N)

    def body(emit, x):
        taken = emit(relax.op.take(relax.const(stored), relax.const(indices), 0, mode=mode))
        if is_turned:
            taken = emit(relax.op.permute_dims(taken, [0, 2, 1]))
        column = emit(relax.op.expand_dims(x, [2 if weight_first else 1]))
        operands = (taken, column) if weight_first else (column, taken)
        return emit(relax.op.matmul(*operands))

    return dataflow(body, (ROWS, K)), stored


def calls(mod):
    names = []
    relax.analysis.post_order_visit(
        mod["main"], lambda e: names.append(e.op.name) if isinstance(e, relax.Call) else None
    )
    return names


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("weight_first", [False, True])
def test_every_way_to_write_it(is_turned, weight_first):
    before, stored = network(is_turned, weight_first)
    after = RecomposeExperts()(before)
    names = calls(after)
    assert operators.EXPERT_LINEAR.name in names
    assert not {"relax.take", "relax.matmul"}.intersection(names)
    x = stack(ROWS, K) + 1
    weight = stored[INDICES]
    turned = weight.transpose(0, 2, 1) if weight.shape[1] == K else weight
    expected = np.einsum("rk,rnk->rn", x, turned)
    engine = tvm_sparse.compile(before, threads=2)
    (y,) = engine.run([x]).values()
    np.testing.assert_allclose(y.reshape(ROWS, N), expected, atol=1e-4)


@pytest.mark.parametrize("columns", [1, 2])
def test_weights_taken_by_gather_nd(columns):
    stored = stack(EXPERTS, N, K) if columns == 1 else stack(2, EXPERTS, N, K)
    places = np.stack([INDICES % 2, INDICES][-columns:], 1)

    def body(emit, x):
        taken = emit(relax.op.gather_nd(relax.const(stored), relax.const(places, "int64")))
        return emit(relax.op.matmul(taken, emit(relax.op.expand_dims(x, [2]))))

    before = dataflow(body, (ROWS, K))
    names = calls(RecomposeExperts()(before))
    assert (operators.EXPERT_LINEAR.name in names) == (columns == 1)
    x = stack(ROWS, K) + 1
    (y,) = tvm_sparse.compile(before, threads=2).run([x]).values()
    expected = np.einsum("rk,rnk->rn", x, stored[tuple(places.T)])
    np.testing.assert_allclose(y.reshape(ROWS, N), expected, atol=1e-4)


def test_structure():
    weight = stack(EXPERTS, N, K)
    column = (ROWS, K, 1)

    def before(emit, x):
        taken = emit(relax.op.take(relax.const(weight), relax.const(INDICES), 0, mode="clip"))
        return emit(relax.op.matmul(taken, x))

    def after(emit, x):
        rows = emit(relax.op.reshape(x, (ROWS, K)))
        flat = emit(relax.op.reshape(relax.const(INDICES), (ROWS,)))
        of = emit(relax.op.astype(flat, "int64"))
        problem = ExpertLinear(ROWS, EXPERTS, N, K)
        product = emit(operators.expert_linear(rows, of, [relax.const(weight)], problem))
        return emit(relax.op.reshape(product, (ROWS, N, 1)))

    found = RecomposeExperts()(dataflow(before, column))
    tvm.ir.assert_structural_equal(found["main"], dataflow(after, column)["main"])


@pytest.mark.parametrize("mode", ["fast", "wrap"])
def test_unchecked_indices_stay(mode):
    before, _ = network(False, True, mode=mode)
    tvm.ir.assert_structural_equal(RecomposeExperts()(before), before)


def test_products_of_several_rows_stay():
    def body(emit, x):
        weight = relax.const(stack(EXPERTS, K, N))
        taken = emit(relax.op.take(weight, relax.const(INDICES[:2]), 0, mode="clip"))
        return emit(relax.op.matmul(x, taken))

    before = dataflow(body, (2, 3, K))
    tvm.ir.assert_structural_equal(RecomposeExperts()(before), before)
