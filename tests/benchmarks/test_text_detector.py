import importlib

import numpy as np
import pytest


@pytest.fixture
def detector():
    return importlib.import_module("text_detector")


def test_lines_of_the_page_are_where_its_ink_is(detector):
    page = detector.render_page(
        160, 320, ["A short line.", "Another one, longer than the page " * 3]
    )
    assert len(page.lines) == 2
    ink = page.pixels < 128
    inside = np.zeros_like(ink)
    for left, top, right, bottom in page.lines:
        assert right <= 320 - 32
        assert ink[top:bottom, left:right].any()
        inside[top:bottom, left:right] = True
    assert not (ink & ~inside).any()


def test_input_of_the_network(detector):
    page = detector.Page(np.array([[0, 255]], np.uint8), ())
    np.testing.assert_array_equal(page.network_input(), [[[[-1, 1]]] * 3])


def test_quality(detector):
    page = detector.Page(np.zeros((40, 10), np.uint8), ((0, 0, 10, 8), (0, 20, 10, 28)))
    dense = np.zeros((40, 10), np.float32)
    dense[0:8] = dense[20:28] = 1
    same = detector.quality(dense, dense, page)
    assert (same.overlap, same.largest_change, same.lines) == (1.0, 0.0, 1.0)
    half = dense.copy()
    half[20:28] = 0.25
    worse = detector.quality(half, dense, page)
    assert (worse.overlap, worse.largest_change, worse.lines) == (0.5, 0.75, 0.5)
