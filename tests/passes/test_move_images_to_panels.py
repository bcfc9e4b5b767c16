from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.op import add, concat, multiply
from tvm.relax.op.nn import relu

from tvm_sparse.passes import operators as panel
from tvm_sparse.passes.move_images_to_panels import MoveImagesToPanels
from tvm_sparse.targets import profile
from tvm_sparse.testing import dataflow, operators_of, pruned, run

IMAGE, PANELS, LANES = (2, 3, 5, 7), (10, 3, 8), 8


def assert_moves(before, after, *shapes):
    canonical = relax.transform.CanonicalizeBindings()
    mod = canonical(MoveImagesToPanels()(dataflow(before, *shapes)))
    expected = canonical(dataflow(after, *shapes))
    tvm.ir.assert_structural_equal(mod["main"], expected["main"])


def image(p):
    return panel.panels_to_image(p, IMAGE)


def test_layout_changes_cancel():
    def before(emit, p):
        return emit(panel.image_to_panels(emit(relu(emit(image(p)))), LANES))

    assert_moves(before, lambda emit, p: emit(relu(p)), PANELS)


def test_elementwise_with_every_kind_of_operand():
    bias = np.arange(3, dtype="float32")

    def before(emit, p, other):
        x = emit(add(emit(image(p)), relax.const(bias.reshape(1, 3, 1, 1))))
        return emit(multiply(emit(add(other, x)), relax.const(np.float32([2]))))

    def after(emit, p, other):
        x = emit(add(p, relax.const(bias.reshape(3, 1))))
        x = emit(add(emit(panel.image_to_panels(other, LANES)), x))
        x = emit(multiply(x, relax.const(np.float32(2))))
        return emit(image(x))

    assert_moves(before, after, PANELS, IMAGE)


def test_concat_of_channels():
    def before(emit, p, q):
        x = emit(concat([emit(image(p)), emit(image(q))], axis=1))
        return emit(panel.image_to_panels(x, LANES))

    assert_moves(before, lambda emit, p, q: emit(concat([p, q], axis=1)), PANELS, PANELS)


def test_slice_of_channels():
    def before(emit, p):
        x = emit(relax.op.strided_slice(emit(image(p)), [1], [1], [3]))
        return emit(panel.image_to_panels(x, LANES))

    def after(emit, p):
        return emit(relax.op.strided_slice(p, [1], [1], [3]))

    assert_moves(before, after, PANELS)


@pytest.mark.parametrize(
    ("body", "others"),
    [
        (lambda emit, x, other: emit(multiply(x, other)), [(2, 3, 1, 1)]),
        (lambda emit, x: emit(relax.op.mean(x, axis=[2, 3], keepdims=True)), []),
        (lambda emit, x: emit(relax.op.mean(x, axis=[-1, -2])), []),
    ],
)
def test_numbers_of_what_needs_the_whole_image(body, others):
    rng = np.random.default_rng(0)
    inputs = [pruned(rng, shape, 1.0) for shape in (IMAGE, *others)]

    def network(emit, x, *rest):
        x = emit(panel.panels_to_image(emit(panel.image_to_panels(x, LANES)), IMAGE))
        return body(emit, x, *rest)

    target = profile("x86-64-v3").to_target()
    before = dataflow(network, IMAGE, *others)
    plain = dataflow(body, IMAGE, *others)
    names = operators_of(MoveImagesToPanels()(before))
    assert names.index("tvm_sparse.image_to_panels") == 0
    expected = run(tvm.compile(plain, target), *inputs)
    result = run(tvm.compile(before, target, relax_pipeline="tvm_sparse"), *inputs)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
