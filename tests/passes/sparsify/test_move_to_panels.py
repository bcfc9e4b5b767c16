from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.op import add, reshape
from tvm.relax.op.nn import attention, gelu, layer_norm

from tvm_sparse.cpu.profile import profile
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.sparsify.move_to_panels import MoveToPanels
from tvm_sparse.testing.models import dataflow, operators_of

CPU = profile("haswell")  # 16 lanes
LANES = 16


def moved(body, *shapes):
    return MoveToPanels(CPU)(dataflow(body, *shapes))


def assert_moves(before, after, *shapes):
    canonical = relax.transform.CanonicalizeBindings()
    mod, expected = canonical(moved(before, *shapes)), canonical(dataflow(after, *shapes))
    tvm.ir.assert_structural_equal(mod["main"], expected["main"])


def test_layout_changes_cancel():
    def before(emit, p):
        x = emit(panel.from_panels(p, (2, 20, 3)))
        return emit(panel.from_panels(emit(panel.to_panels(x, LANES)), (2, 20, 3)))

    assert_moves(before, lambda emit, p: emit(panel.from_panels(p, (2, 20, 3))), (4, 3, LANES))


def test_layout_changes_of_other_lanes_stay():
    def body(emit, p):
        x = emit(panel.from_panels(p, (2, 20, 3)))
        return emit(panel.to_panels(x, 8))

    assert operators_of(moved(body, (4, 3, LANES))) == [
        "tvm_sparse.from_panels",
        "tvm_sparse.to_panels",
    ]


def test_panels_of_other_lanes_that_meet_are_laid_out_anew():
    def before(emit, p, q):
        a, b = (emit(panel.from_panels(x, (2, 20, 3))) for x in (p, q))
        return emit(add(a, b))

    def after(emit, p, q):
        b = emit(panel.to_panels(emit(panel.from_panels(q, (2, 20, 3))), LANES))
        return emit(panel.from_panels(emit(add(p, b)), (2, 20, 3)))

    assert_moves(before, after, (4, 3, LANES), (6, 3, 8))


def test_elementwise_with_every_kind_of_operand():
    scalar, bias = np.float32([2]), np.arange(3, dtype="float32")

    def before(emit, p, other):
        x = emit(panel.from_panels(p, (2, 20, 3)))
        x = emit(add(emit(relax.op.multiply(x, relax.const(scalar))), relax.const(bias)))
        return emit(gelu(emit(add(other, x))))

    def after(emit, p, other):
        x = emit(relax.op.multiply(p, relax.const(scalar.reshape(()))))
        x = emit(add(x, relax.const(bias.reshape(3, 1))))
        x = emit(gelu(emit(add(emit(panel.to_panels(other, LANES)), x))))
        return emit(panel.from_panels(x, (2, 20, 3)))

    assert_moves(before, after, (4, 3, LANES), (2, 20, 3))


def test_flattened_tokens_are_looked_through():
    bias = np.arange(3, dtype="float32")

    def before(emit, p):
        x = emit(reshape(emit(panel.from_panels(p, (2, 20, 3))), (40, 3)))
        x = emit(add(x, relax.const(bias)))
        return emit(panel.to_panels(emit(reshape(x, (2, 20, 3))), LANES))

    assert_moves(
        before, lambda emit, p: emit(add(p, relax.const(bias.reshape(3, 1)))), (4, 3, LANES)
    )


def test_flattened_panels_are_not_batched_ones():
    # 20 tokens do not fill blocks of 16: the panels of (2, 20, 3) are not those of (40, 3).
    def body(emit, p):
        x = emit(reshape(emit(panel.from_panels(p, (2, 20, 3))), (40, 3)))
        return emit(panel.to_panels(x, LANES))

    assert "tvm_sparse.to_panels" in operators_of(moved(body, (4, 3, LANES)))


@pytest.mark.parametrize("shape", [(1, 20, 3), (2, 1, 3), (20, 1)])
def test_broadcast_tensors_stay(shape):
    def body(emit, p, other):
        return emit(add(emit(panel.from_panels(p, (2, 20, 3))), other))

    assert operators_of(moved(body, (4, 3, LANES), shape)) == ["tvm_sparse.from_panels", "add"]


def test_layer_norm_moves_by_itself():
    ones = relax.const(np.ones(3, "float32"))

    def before(emit, x):
        return emit(layer_norm(x, ones, ones, axes=[-1], epsilon=1e-6))

    def after(emit, x):
        p = emit(panel.to_panels(x, LANES))
        return emit(panel.from_panels(emit(panel.layer_norm(p, ones, ones, 1e-6)), (2, 20, 3)))

    assert_moves(before, after, (2, 20, 3))


def test_layer_norm_over_other_axes_stays():
    ones = relax.const(np.ones((20, 3), "float32"))
    mod = moved(lambda emit, x: emit(layer_norm(x, ones, ones, axes=[-2, -1])), (2, 20, 3))
    assert operators_of(mod) == ["nn.layer_norm"]


def test_attention_between_linear_layers_needs_no_layout_change():
    def before(emit, q, k, v, bias):
        heads = [
            emit(reshape(emit(panel.from_panels(p, (2, 20, 6))), (2, 20, 3, 2))) for p in (q, k, v)
        ]
        x = emit(attention(*heads, bias))
        return emit(panel.to_panels(emit(reshape(x, (2, 20, 6))), LANES))

    attrs = {
        "batch": 2,
        "tokens": 20,
        "key_tokens": 20,
        "heads": 3,
        "head_dim": 2,
        "scale": 1 / math.sqrt(2),
    }

    def after(emit, q, k, v, bias):
        return emit(panel.attention(q, k, v, bias, attrs))

    panels = (4, 6, LANES)
    assert_moves(before, after, panels, panels, panels, (2, 1, 1, 20))


def test_attention_to_a_longer_sequence_lays_its_queries_out_anew():
    queries, keys = 6, 20

    def before(emit, q, k, v):
        heads = [
            emit(reshape(emit(panel.from_panels(p, (2, tokens, 6))), (2, tokens, 3, 2)))
            for p, tokens in ((q, queries), (k, keys), (v, keys))
        ]
        return emit(attention(*heads))

    mod = moved(before, (2, 6, 8), (4, 6, LANES), (4, 6, LANES))
    assert operators_of(mod) == [
        "tvm_sparse.from_panels",
        "tvm_sparse.to_panels",
        "tvm_sparse.attention",
        "tvm_sparse.from_panels",
        "reshape",
    ]


def test_causal_attention_stays():
    def body(emit, q):
        return emit(attention(q, q, q, causal_mask="TopLeft"))

    assert operators_of(moved(body, (2, 20, 3, 2))) == ["nn.attention"]


def test_a_guard_against_nan():
    def guarded(emit, x):
        return emit(relax.op.where(emit(relax.op.isnan(x)), relax.const(0.0), x))

    assert_moves(
        lambda emit, p: guarded(emit, emit(panel.from_panels(p, (2, 20, 3)))),
        lambda emit, p: emit(panel.from_panels(guarded(emit, p), (2, 20, 3))),
        (4, 3, LANES),
    )
