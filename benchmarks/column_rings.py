"""Kernels whose activations never leave the private cache: what tensor columns could reach at most.

The code is that of `columns="off"`, with convolutions of images in place. But our kernels read and
write rows in a ring: a few rows of memory for each thread, which all rows share in turn. So the
results are wrong, while the work and the weights are the same. No activation comes from beyond L2,
not even the network's input and output, and no row is computed twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.schedules.emit.buffers import opaque
from tvm_sparse.schedules.emit.panel_memory import Images, TensorPanels
from tvm_sparse.sizes.tensor import Tensor

if TYPE_CHECKING:
    from tvm.ir import Expr

RINGS = {8: 1 / 8, 4: 1 / 8, 1: 3 / 8}
"""The numbers of rows that a ring may have, and the share of the private cache that it may then
fill; the first that fits is taken. A kernel reads one or two rings and writes one, and few tiles
have more rows than a ring."""


def ring(tensor: Tensor, cpu: CpuProfile) -> tuple[int, int]:
    """Return how many rows share a ring, and the rows of the ring; few rows share no ring.

    Parameters
    ----------
    tensor : Tensor
        An activation.
    cpu : CpuProfile
        Its threads take equal shares of the rows, one after another.
    """
    rows = tensor.images * tensor.rows
    share = -(-rows // cpu.cores)
    for size, most in RINGS.items():
        if 2 * size <= share and size * tensor.row_bytes <= most * cpu.l2_bytes:
            return share, size
    return rows, rows


@contextlib.contextmanager
def in_rings(cpu: CpuProfile) -> Iterator[None]:
    """Build kernels whose activations are in rings, inside of the context.

    Parameters
    ----------
    cpu : CpuProfile
        The processor to build for; all of its cores take part.
    """
    panel_of, image_row_of = TensorPanels.at, Images.at

    def panel(panels: TensorPanels, image: Expr, row: Expr) -> Expr:
        return _in_ring(panel_of(panels, image, row), panels.tensor, cpu)

    def image_row(images: Images, image: Expr, row: Expr) -> Any:
        rows = images.tensor.rows
        place = _in_ring(image * rows + row, images.tensor, cpu)
        return image_row_of(images, place // rows, place % rows)

    with (
        mock.patch.object(TensorPanels, "at", panel),
        mock.patch.object(Images, "at", image_row),
    ):
        yield


def _in_ring(place: Expr, tensor: Tensor, cpu: CpuProfile) -> Expr:
    """Return the place, in its ring, of a row of all images."""
    share, size = ring(tensor, cpu)
    if size == share:
        return place
    # A ring lies where the rows of its thread begin, so it never begins behind the row.
    first = opaque(place // share * share)  # Without this, TVM divides by zero as it simplifies.
    return first + (place - first) % size
