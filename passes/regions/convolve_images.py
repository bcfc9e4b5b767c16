"""conv(image_to_panels(x)) => conv(x), and panels_to_image(conv(p)) => conv(p), which is an image

A convolution gathers the rows that it sees from wherever they are, and stores whole vectors. Where
all lanes of the panels are pixels of the image, it needs no panels.

This is a part of `FormRegions`: with ``column_rows="off"`` every operator stays by itself, also the
layout changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators import (
    CONVOLUTIONS,
    IMAGE_TO_PANELS,
    PANELS_TO_IMAGE,
    from_image,
    to_image,
)
from tvm_sparse.passes.ir.rewriting import rewrite_with_sources
from tvm_sparse.passes.ir.shapes import extents_of


def convolve_images(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` without the panels that only a convolution reads or writes."""
    return rewrite_with_sources(mod, _in_place)


def _in_place(call: relax.Call, sources: Sequence[relax.Expr | None]) -> relax.Expr | None:
    source = sources[0] if sources else None
    if source is None:
        return None
    if is_call_to(call, *CONVOLUTIONS) and is_call_to(source, IMAGE_TO_PANELS.name):
        image = IMAGE_TO_PANELS.operand(source, "x")
        return from_image(call, image) if _is_full(source) else None
    if is_call_to(call, PANELS_TO_IMAGE.name) and is_call_to(source, *CONVOLUTIONS):
        return to_image(source) if _is_full(call) else None
    return None


def _is_full(change: relax.Call) -> bool:
    """Whether image and panels of a layout change have equally long rows."""
    (source,) = change.args
    before, after = extents_of(source), extents_of(change)
    return before is not None and after is not None and before[-1] == after[-1]
