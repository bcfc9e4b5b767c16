"""Changes of layout: token sequences or images to panels, and back.

==================== ==============================================================
`to_panels(x)`       tokens ``(..., tokens, channels)`` to panels
`from_panels(p)`     its inverse
`image_to_panels(x)` images ``(batch, channels, height, width)`` to panels
`panels_to_image(p)` its inverse
==================== ==============================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, dtype_of, tensor_type
from tvm_sparse.passes.ir.shapes import known_extents, known_size, lifted, lowered
from tvm_sparse.schedules.stage import Stage
from tvm_sparse.sizes.tensor import Tensor


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in panels.

    Attributes
    ----------
    batch, tokens, channels : int
        The logical tensor is ``(batch, tokens, channels)``.
    lanes : int
        Tokens of a block.
    """

    batch: int
    tokens: int
    channels: int
    lanes: int

    @staticmethod
    def of(shape: Sequence[int], lanes: int) -> Layout:
        """Return the layout of a tensor ``(..., tokens, channels)``; one axis is one token."""
        *leading, tokens, channels = (1, *shape) if len(shape) == 1 else shape
        return Layout(math.prod(leading), tokens, channels, lanes)

    @property
    def rows(self) -> int:
        """Blocks of tokens in all sequences."""
        return self.batch * -(-self.tokens // self.lanes)

    def is_compatible(self, other: Layout) -> bool:
        """Whether the same panels hold tensors of both layouts, even if their shapes differ."""
        if self.lanes != other.lanes or self.channels != other.channels:
            return False
        if (self.batch, self.tokens) == (other.batch, other.tokens):
            return True
        # Whole blocks follow one another without padding between sequences.
        whole = self.batch == 1 or self.tokens % self.lanes == 0
        other_whole = other.batch == 1 or other.tokens % other.lanes == 0
        return whole and other_whole and self.batch * self.tokens == other.batch * other.tokens


def panels_of(value: relax.Expr, images: int) -> Tensor:
    """Return the extents of panels that hold `images` images."""
    rows, channels, lanes = known_extents(value)
    return Tensor(images, rows // images, channels, lanes, dtype_of(value))


def lanes_of(panels: relax.Expr) -> int:
    """Return the lanes of panels."""
    _, _, lanes = known_extents(panels)
    return lanes


def to_panels(x: relax.Expr, lanes: int, dtype: DType = ACTIVATIONS) -> relax.Call:
    """Lay out `x` ``(..., tokens, channels)``, float32, as panels of type `dtype`."""
    return TO_PANELS.call(x, lanes=lanes, dtype=str(dtype))


def from_panels(panels: relax.Expr, shape: Sequence[int]) -> relax.Call:
    """Return the tensor ``(..., tokens, channels)``, float32, that the panels hold."""
    return FROM_PANELS.call(panels, shape=[lowered(extent) for extent in shape])


def image_to_panels(x: relax.Expr, lanes: int, dtype: DType = ACTIVATIONS) -> relax.Call:
    """Lay out `x` ``(batch, channels, height, width)`` as panels with a row of `x` in each row.

    `x` is float32, and the panels have the type `dtype`.
    """
    return IMAGE_TO_PANELS.call(x, lanes=lanes, dtype=str(dtype))


def panels_to_image(panels: relax.Expr, shape: Sequence[int]) -> relax.Call:
    """Return the image ``(batch, channels, height, width)``, float32, in the panels."""
    return PANELS_TO_IMAGE.call(panels, shape=[lowered(extent) for extent in shape])


def dtype_named(call: relax.Call) -> DType:
    """Return the type of the panels that a change of layout makes."""
    return DType(call.attrs["dtype"])


def batched(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape ``(..., tokens, channels)`` as ``(batch, tokens, channels)``."""
    layout = Layout.of(shape, 1)
    return layout.batch, layout.tokens, layout.channels


def _infer_to_panels(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    shape = known_extents(TO_PANELS.operand(call, "x"))
    layout = Layout.of(shape, int(call.attrs["lanes"]))
    return tensor_type(layout.rows, layout.channels, layout.lanes, dtype=dtype_named(call))


def _infer_image_to_panels(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    batch, channels, height, _ = known_extents(IMAGE_TO_PANELS.operand(call, "x"))
    lanes = int(call.attrs["lanes"])
    return tensor_type(batch * height, channels, lanes, dtype=dtype_named(call))


def _infer_shape(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    return tensor_type(*(lifted(extent) for extent in call.attrs["shape"]))


def _batch_of(call: relax.Call) -> int:
    batch, *_ = known_extents(IMAGE_TO_PANELS.operand(call, "x"))
    return batch


def _to_panels(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    shape = known_extents(TO_PANELS.operand(call, "x"))
    return schedules.to_panels(*batched(shape), int(call.attrs["lanes"]), cpu, dtype_named(call))


def _from_panels(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    panels = FROM_PANELS.operand(call, "x")
    sizes = batched(known_extents(call))
    return schedules.from_panels(*sizes, lanes_of(panels), cpu, dtype_of(panels))


def _image_to_panels(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    batch, channels, height, width = known_extents(IMAGE_TO_PANELS.operand(call, "x"))
    form = int(call.attrs["lanes"]), cpu, dtype_named(call)
    return schedules.ImageToPanels(batch, channels, height, width, *form)


def _panels_to_image(call: relax.Call, _images: int, cpu: CpuProfile) -> Stage:
    batch, channels, height, width = known_extents(call)
    panels = PANELS_TO_IMAGE.operand(call, "x")
    form = lanes_of(panels), cpu, dtype_of(panels)
    return schedules.PanelsToImage(batch, channels, height, width, *form)


TO_PANELS = Operator(
    PREFIX + "to_panels",
    ("x",),
    infer=_infer_to_panels,
    kernel=_to_panels,
    sizes=lambda call: batched(known_extents(call.args[0]))[:2],
    takes_sizes=True,
)
FROM_PANELS = Operator(
    PREFIX + "from_panels",
    ("x",),
    infer=_infer_shape,
    kernel=_from_panels,
    sizes=lambda call: batched(known_extents(call))[:2],
    takes_sizes=True,
)
IMAGE_TO_PANELS = Operator(
    PREFIX + "image_to_panels",
    ("x",),
    infer=_infer_image_to_panels,
    stage=_image_to_panels,
    images=_batch_of,
    takes_sizes=True,
)
PANELS_TO_IMAGE = Operator(
    PREFIX + "panels_to_image",
    ("x",),
    infer=_infer_shape,
    stage=_panels_to_image,
    images=lambda call: known_size(call.attrs["shape"][0]),
    takes_sizes=True,
)
