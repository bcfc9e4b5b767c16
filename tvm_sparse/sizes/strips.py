"""Strips: pieces of the rows of wide images, so that each row of panels is short."""

from __future__ import annotations

from dataclasses import dataclass

PREFERRED = 128
"""Output pixels of a strip: a few vectors, so that the inputs of a tile stay in the L1 cache."""

SHORTEST = 32
"""Fewest output pixels of a strip."""

MULTIPLE = 16
"""Strips begin at multiples of as many output pixels, which every vector divides."""


OF_OPEN_WIDTH = (16, 32, 64)
"""Output pixels that strips may have of images whose width is known at run time only."""

BESIDE = 8
"""About how many pixels more than those of a strip its copy, and the loops over them, count for.
Measured on the text detector of PP-OCRv4 on a Xeon of the Sapphire Rapids class."""

WIDEST = 2048
"""Pixels of the widest row of an image of several rows that stays whole."""

WIDEST_SINGLE = 192
"""Pixels of the widest single row that stays whole: one thread computes a row."""


@dataclass(frozen=True)
class Strips:
    """How a convolution's rows are cut along their width.

    Strip `r` holds the output pixels from ``r * pixels`` on. It sees `span` input pixels, from
    ``r * step - left`` on; those outside of the image are 0. Each strip is an image of the batch.

    Attributes
    ----------
    count : int
        Strips of a row.
    pixels : int
        Output pixels of a strip; the last strip may have fewer that anybody reads.
    step, left, span : int
        Input pixels from one strip to the next one, in front of the first one, and of each.
    width, out_width : int
        Pixels of a row of the input image, and of the output image. Where they are an `Extent`,
        `count` is one, too.
    """

    count: int
    pixels: int
    step: int
    left: int
    span: int
    width: int
    out_width: int

    @staticmethod
    def of(
        width: int, out_width: int, left: int, stride: int, reach: int, least_count: int
    ) -> Strips:
        """Return the strips of a convolution.

        Parameters
        ----------
        width, out_width : int
            Pixels of a row of the input and of the output.
        left : int
            Zeros in front of a row.
        stride, reach : int
            Input pixels from one output pixel to the next, and those that an output pixel sees.
        least_count : int
            Strips that a row should have at least, where they get long enough.
        """
        even = -(-out_width // least_count)
        pixels = max(min(PREFERRED, even), SHORTEST, -(-reach // stride))
        pixels = min(pixels, out_width)
        pixels = -(-pixels // MULTIPLE) * MULTIPLE
        return Strips(
            count=-(-out_width // pixels),
            pixels=pixels,
            step=pixels * stride,
            left=left,
            span=(pixels - 1) * stride + reach,
            width=width,
            out_width=out_width,
        )

    @staticmethod
    def of_any_width(
        width: int,
        out_width: int,
        left: int,
        stride: int,
        reach: int,
        pixels: int | None = None,
    ) -> Strips:
        """Return the strips of images of any width; the other parameters are those of `of`.

        Parameters
        ----------
        pixels : int, optional
            Output pixels of a strip, if not those of `pixels_of_strips`. Convolutions of one axis
            take `PREFERRED`.
        """
        pixels = pixels or pixels_of_strips(out_width)
        return Strips(
            count=strips_over(out_width, pixels),
            pixels=pixels,
            step=pixels * stride,
            left=left,
            span=(pixels - 1) * stride + reach,
            width=width,
            out_width=out_width,
        )


def pixels_of_strips(width: int) -> int:
    """Return the pixels of strips of images whose width is known at run time only.

    It is the same for all images of one width, so that they are cut in the same places.

    Parameters
    ----------
    width : int
        The pixels of an image; the strips are chosen for its hint, and for images half as wide.
    """
    widths = int(width), max(int(width) // 2, 1)

    def copied(pixels: int) -> float:
        """Return the pixels that are computed and copied, as a multiple of those of the images."""
        return sum(-(-width // pixels) * (pixels + BESIDE) / width for width in widths)

    return min(OF_OPEN_WIDTH, key=copied)


def strips_over(width: int, pixels: int) -> int:
    """Return how many strips of some pixels cover a width.

    It is the same expression for images and strips that are both twice as wide, so that they count
    as equal if the width is an `Extent`.
    """
    while pixels % 2 == 0 and width % 2 == 0:
        width, pixels = width // 2, pixels // 2
    return (width + (pixels - 1)) // pixels


def strip_sizes(batch: int, height: int, *cuts: Strips) -> tuple[int, ...]:
    """Return the sizes of a copy of strips that may be known at run time only, in order."""
    own = [size for cut in cuts for size in (cut.count, cut.width, cut.out_width)]
    return (batch, height, *own)
