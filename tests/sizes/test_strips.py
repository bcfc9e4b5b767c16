from hypothesis import given
from hypothesis import strategies as st

from tvm_sparse.sizes.extent import Extent
from tvm_sparse.sizes.strips import MULTIPLE, SHORTEST, Strips, pixels_of_strips


@given(
    width=st.integers(1, 20000),
    left=st.integers(0, 20),
    right=st.integers(0, 20),
    stride=st.integers(1, 5),
    reach=st.integers(1, 600),
    least=st.integers(1, 300),
)
def test_strips_hold_every_output_once_and_all_that_it_sees(
    width, left, right, stride, reach, least
):
    out_width = (width + left + right - reach) // stride + 1
    if out_width < 1:
        return
    strips = Strips.of(width, out_width, left, stride, reach, least)
    assert (strips.count - 1) * strips.pixels < out_width <= strips.count * strips.pixels
    assert strips.pixels % MULTIPLE == 0
    for strip in {0, strips.count - 1}:
        first_seen = strip * strips.step - left
        for pixel in {0, strips.pixels - 1}:
            seen = (strip * strips.pixels + pixel) * stride - left
            assert first_seen <= seen and seen + reach <= first_seen + strips.span


def test_a_short_row_is_cut_for_all_cores_and_a_long_reach_makes_long_strips():
    assert Strips.of(1000, 1000, 0, 1, 1, 8).pixels == 128
    assert Strips.of(1000, 1000, 0, 1, 1, 1000).pixels == SHORTEST
    assert Strips.of(10, 10, 0, 1, 1, 8).count == 1
    assert Strips.of(9000, 8000, 0, 1, 1001, 8).pixels >= 1001


def test_enlarged_strips_are_those_of_the_enlarged_image():
    width = Extent.symbol("width", 40)
    cuts = [
        Strips.of_any_width(scale * width, scale * width, 1, 1, 3, 16 * scale)
        for scale in (1, 2, 4)
    ]
    assert len({cut.count for cut in cuts}) == 1


def test_strips_of_open_widths_are_as_wide_as_the_planned_image_allows():
    assert [pixels_of_strips(width) for width in (1, 20, 80, 160, 320, 4000)] == [
        *(16, 16, 16, 32, 64, 64),
    ]
    assert pixels_of_strips(Extent.symbol("width", 320)) == 64
