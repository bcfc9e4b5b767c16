"""The windows of convolutions and poolings."""

from __future__ import annotations

from collections.abc import Sequence


def window_key(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> str:
    """Return a text that tells which pixels an output pixel sees, for the tuning records.

    Parameters
    ----------
    kernel, stride, dilation : sequence of int
        The vertical and the horizontal one.
    padding : sequence of int
        The padding at the top, left, bottom and right.
    """
    sizes = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return " ".join(f"{name}={'x'.join(map(str, size))}" for name, size in sizes.items())
