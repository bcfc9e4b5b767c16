from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.op import add, concat, multiply
from tvm.relax.op.nn import relu

from tvm_sparse.cpu.profile import profile
from tvm_sparse.passes.ir import operators as panel
from tvm_sparse.passes.sparsify.move_images_to_panels import MoveImagesToPanels
from tvm_sparse.sizes.pool2d import Pool2d
from tvm_sparse.sizes.resize2d import Resize2d
from tvm_sparse.testing.models import dataflow, operators_of, pruned, run

CPU = profile("haswell")
IMAGE, PANELS, LANES = (2, 3, 5, 7), (10, 3, 8), 8


def assert_moves(before, after, *shapes):
    canonical = relax.transform.CanonicalizeBindings()
    mod = canonical(MoveImagesToPanels(CPU)(dataflow(before, *shapes)))
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


def test_fields_of_a_split():
    def before(emit, p):
        fields = emit(relax.op.split(emit(image(p)), [1], axis=1))
        x = emit(concat([emit(relax.TupleGetItem(fields, i)) for i in (1, 0)], axis=1))
        return emit(panel.image_to_panels(x, LANES))

    def after(emit, p):
        first = emit(relax.op.strided_slice(p, [1], [0], [1]))
        return emit(concat([emit(relax.op.strided_slice(p, [1], [1], [3])), first], axis=1))

    assert_moves(before, after, PANELS)


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_pooling(name):
    options = {"strides": [2, 1], "padding": [1, 0, 0, 1], "ceil_mode": True}
    pool = Pool2d(*IMAGE, 3, 7, (3, 2), (2, 1), (1, 0, 0, 1), lanes_in=LANES, lanes_out=LANES)

    def before(emit, p):
        return emit(getattr(relax.op.nn, name)(emit(image(p)), [3, 2], **options))

    def after(emit, p):
        return emit(panel.panels_to_image(emit(getattr(panel, name)(p, pool)), (2, 3, 3, 7)))

    assert_moves(before, after, PANELS)


def test_pooling_moves_by_itself():
    def before(emit, x):
        return emit(relax.op.nn.max_pool2d(x, [3, 3]))

    pool = Pool2d(*IMAGE, 3, 5, (3, 3), lanes_in=LANES, lanes_out=LANES)

    def after(emit, x):
        p = emit(panel.max_pool2d(emit(panel.image_to_panels(x, LANES)), pool))
        return emit(panel.panels_to_image(p, (2, 3, 3, 5)))

    assert_moves(before, after, IMAGE)


@pytest.mark.parametrize(
    ("whole", "moved"),
    [(relax.op.mean, panel.global_avg_pool2d), (relax.op.max, panel.global_max_pool2d)],
)
def test_global_pooling_stays_on_panels_of_one_pixel(whole, moved):
    def before(emit, p):
        x = emit(whole(emit(image(p)), axis=[2, 3], keepdims=True))
        return emit(panel.image_to_panels(emit(relu(x)), LANES))

    def after(emit, p):
        return emit(relu(emit(moved(p, IMAGE[2:], LANES))))

    assert_moves(before, after, PANELS)


def test_scale_of_channels_by_a_pixel():
    def before(emit, p, pixel):
        scale = emit(panel.panels_to_image(pixel, (1, 3, 1, 1)))
        x = emit(panel.panels_to_image(p, (1, 3, 5, 7)))
        return emit(panel.image_to_panels(emit(multiply(x, scale)), LANES))

    def after(emit, p, pixel):
        return emit(multiply(p, emit(relax.op.strided_slice(pixel, [2], [0], [1]))))

    assert_moves(before, after, (5, 3, LANES), (1, 3, LANES))


@pytest.mark.parametrize(
    ("mode", "rounding"),
    [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round")],
)
def test_upsampling(mode, rounding):
    def before(emit, p):
        options = {"coordinate_transformation_mode": mode, "rounding_method": rounding}
        options |= {"method": "nearest_neighbor", "roi": (0.0,) * 4}
        return emit(relax.op.image.resize2d(emit(image(p)), (10, 21), layout="NCHW", **options))

    def after(emit, p):
        moved = emit(panel.upsample2d(p, IMAGE[2:], (2, 3), CPU.image_lanes(21)))
        return emit(panel.panels_to_image(moved, (2, 3, 10, 21)))

    assert_moves(before, after, PANELS)


@pytest.mark.parametrize(
    ("mode", "parts", "order"),
    [("DCR", (2, 3, 2), [0, 3, 4, 1, 5, 2]), ("CRD", (2, 2, 3), [0, 1, 4, 2, 5, 3])],
)
def test_depth_to_space(mode, parts, order):
    shape, out = (2, 12, 5, 7), (2, 2, 10, 21)

    def before(emit, p):
        x = emit(panel.panels_to_image(p, shape))
        x = emit(relax.op.permute_dims(emit(relax.op.reshape(x, (2, *parts, 5, 7))), order))
        return emit(relu(emit(relax.op.reshape(x, out))))

    def after(emit, p):
        moved = panel.depth_to_space(p, shape[2:], (2, 3), mode, CPU.image_lanes(21))
        return emit(panel.panels_to_image(emit(relu(emit(moved))), out))

    assert_moves(before, after, (10, 12, 8))


def test_another_order_of_pixels_stays():
    def body(emit, p):
        x = emit(panel.panels_to_image(p, (2, 12, 5, 7)))
        parted = emit(relax.op.reshape(x, (2, 2, 3, 2, 5, 7)))
        turned = emit(relax.op.permute_dims(parted, [0, 3, 1, 4, 5, 2]))
        return emit(relax.op.reshape(turned, (2, 2, 10, 21)))

    assert_moves(body, body, (10, 12, 8))


@pytest.mark.parametrize("mode", ["half_pixel", "pytorch_half_pixel", "align_corners"])
def test_bilinear_enlargement(mode):
    coordinates = "align_corners" if mode == "align_corners" else "half_pixel"
    resize = Resize2d(*IMAGE, 8, 9, coordinates, lanes_in=LANES, lanes_out=CPU.image_lanes(9))

    def before(emit, p):
        options = {"coordinate_transformation_mode": mode, "method": "linear", "layout": "NCHW"}
        return emit(relax.op.image.resize2d(emit(image(p)), (8, 9), (0.0,) * 4, **options))

    def after(emit, p):
        return emit(panel.panels_to_image(emit(panel.bilinear2d(p, resize)), (2, 3, 8, 9)))

    assert_moves(before, after, PANELS)


def resized(size, **options):
    return lambda emit, x: emit(relax.op.image.resize2d(x, size, (0.0,) * 4, "NCHW", **options))


@pytest.mark.parametrize(
    "body",
    [
        resized((10, 6), method="linear"),
        resized((10, 14), method="cubic"),
        resized((10, 14), method="nearest_neighbor", coordinate_transformation_mode="asymmetric"),
        resized((8, 14), method="nearest_neighbor", rounding_method="round"),
        lambda emit, x: emit(relax.op.mean(x, axis=[1, 2])),
        lambda emit, x: emit(relax.op.nn.adaptive_avg_pool2d(x, (2, 1))),
    ],
)
def test_others_read_the_image(body):
    mod = MoveImagesToPanels(CPU)(dataflow(lambda emit, p: body(emit, emit(image(p))), PANELS))
    assert operators_of(mod)[0] == "tvm_sparse.panels_to_image"


@pytest.mark.parametrize(
    ("body", "others"),
    [
        (lambda emit, x, other: emit(multiply(x, other)), [(2, 3, 1, 1)]),
        (lambda emit, x: emit(relax.op.mean(x, axis=[2, 3], keepdims=True)), []),
        (lambda emit, x: emit(relax.op.mean(x, axis=[-1, -2])), []),
        (lambda emit, x: emit(relax.op.nn.adaptive_avg_pool2d(x, (1, 1))), []),
        (lambda emit, x: emit(relax.op.max(x, axis=[2, 3])), []),
        (lambda emit, x: emit(relax.op.nn.max_pool2d(x, [3, 2], [2, 2], [1, 0, 1, 1])), []),
        (lambda emit, x: emit(relax.op.nn.avg_pool2d(x, [3, 3], [2, 2], [1, 1, 1, 1])), []),
        (
            lambda emit, x: emit(
                relax.op.nn.avg_pool2d(
                    x, [2, 3], [2, 2], [1, 0, 0, 1], ceil_mode=True, count_include_pad=True
                )
            ),
            [],
        ),
        (
            resized(
                (15, 14),
                method="nearest_neighbor",
                coordinate_transformation_mode="asymmetric",
                rounding_method="floor",
            ),
            [],
        ),
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
    names = operators_of(MoveImagesToPanels(CPU)(before))
    assert names.index("tvm_sparse.image_to_panels") == 0
    expected = run(tvm.compile(plain, target), *inputs)
    result = run(tvm.compile(before, target, relax_pipeline="tvm_sparse"), *inputs)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
