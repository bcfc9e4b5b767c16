"""Our Relax operators: what the graph passes rewrite a network into.

All of them work on panels, `[rows, channels, lanes]` float32 tensors that hold a batch of token
sequences: rows = batch * ceil(tokens / lanes) blocks of tokens, channels = features, lanes = the
tokens of a block (the padding lanes of a sequence's last block hold finite values that nobody
reads).

=========================  ==================================================================
`to_panels(x)`             `(batch, tokens, channels)` or `(tokens, channels)` -> panels
`from_panels(p)`           the inverse
`sparse_linear(p, ...)`    activation(W p + bias + residual), W mostly zeros, packed
`linear(p, ...)`           the same with a dense W
`layer_norm(p, g, b)`      normalization over the channels
`attention(q, k, v, [b])`  softmax(scale q k^T + b) v for every head
`image_to_panels(x)`       `(batch, channels, height, width)` -> panels of rows of the image
`panels_to_image(p)`       the inverse
`sparse_conv2d(p, ...)`    as `sparse_linear`, a convolution
`conv2d(p, ...)`           the same with a dense W
`depthwise_conv2d(p, W)`   the same with a W for each channel by itself
`max_pool2d(p)`            the maximum over windows of an image
`avg_pool2d(p)`            the mean over windows
`global_avg_pool2d(p)`     the mean over all pixels -> panels of images of one pixel
`global_max_pool2d(p)`     the maximum over all pixels
`upsample2d(p)`            repeats every pixel
`bilinear2d(p)`            enlarges an image by linear interpolation
`hardswish(x)`             of tensors in any layout
=========================  ==================================================================

The panels of an image hold a row of it in each of theirs, its columns in the lanes. Convolutions
also take, and with `to_image` return, the images themselves, if they have as many columns as lanes.

They are ordinary Relax operators with type inference, so a module that contains them prints,
is checked and is transformed like any other. `LowerOperators` turns them into PrimFuncs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, te, tirx

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.pool2d import Pool2d
from tvm_sparse.sizes.resize2d import Resize2d

PREFIX = "relax.tvm_sparse."

TO_PANELS = PREFIX + "to_panels"
FROM_PANELS = PREFIX + "from_panels"
SPARSE_LINEAR = PREFIX + "sparse_linear"
LINEAR = PREFIX + "linear"
LAYER_NORM = PREFIX + "layer_norm"
ATTENTION = PREFIX + "attention"


IMAGE_TO_PANELS = PREFIX + "image_to_panels"
PANELS_TO_IMAGE = PREFIX + "panels_to_image"
SPARSE_CONV2D = PREFIX + "sparse_conv2d"
CONV2D = PREFIX + "conv2d"
DEPTHWISE_CONV2D = PREFIX + "depthwise_conv2d"
MAX_POOL2D = PREFIX + "max_pool2d"
AVG_POOL2D = PREFIX + "avg_pool2d"
GLOBAL_AVG_POOL2D = PREFIX + "global_avg_pool2d"
GLOBAL_MAX_POOL2D = PREFIX + "global_max_pool2d"
UPSAMPLE2D = PREFIX + "upsample2d"
BILINEAR2D = PREFIX + "bilinear2d"
HARDSWISH = PREFIX + "hardswish"

CONVOLUTIONS = (SPARSE_CONV2D, CONV2D, DEPTHWISE_CONV2D)

WITH_EPILOGUE = (SPARSE_LINEAR, LINEAR, *CONVOLUTIONS)
"""Operators whose attributes `bias`, `residual` and `activation` describe an epilogue."""


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in panels.

    Attributes
    ----------
    batch, tokens, channels : int
        The logical tensor is `(batch, tokens, channels)`.
    lanes : int
        Tokens of a block.
    """

    batch: int
    tokens: int
    channels: int
    lanes: int

    @staticmethod
    def of(shape: Sequence[int], lanes: int) -> Layout:
        """Return the layout of a tensor `(..., tokens, channels)`."""
        *leading, tokens, channels = shape
        batch = 1
        for extent in leading:
            batch *= extent
        return Layout(batch, tokens, channels, lanes)

    @property
    def rows(self) -> int:
        """Blocks of tokens in all sequences."""
        return self.batch * -(-self.tokens // self.lanes)

    def is_compatible(self, other: Layout) -> bool:
        """Whether the same panels hold both, whatever the logical shape says."""
        if self.lanes != other.lanes or self.channels != other.channels:
            return False
        if (self.batch, self.tokens) == (other.batch, other.tokens):
            return True
        # Whole blocks follow one another without padding between sequences.
        whole = self.batch == 1 or self.tokens % self.lanes == 0
        other_whole = other.batch == 1 or other.tokens % other.lanes == 0
        return whole and other_whole and self.batch * self.tokens == other.batch * other.tokens


DEFAULT: Mapping[str, Any] = {}
"""The tiling that the cost model chooses."""


def to_panels(x: relax.Expr, lanes: int) -> relax.Call:
    """Lay out `x` `(..., tokens, channels)` as panels."""
    return _call(TO_PANELS, [x], {"lanes": lanes})


def from_panels(panels: relax.Expr, shape: Sequence[int]) -> relax.Call:
    """Return the tensor of shape `shape` `(..., tokens, channels)` that the panels hold."""
    return _call(FROM_PANELS, [panels], {"shape": list(shape)})


def sparse_linear(
    x: relax.Expr, weights: Sequence[relax.Expr], attrs: dict[str, Any]
) -> relax.Call:
    """Multiply panels by a packed sparse weight.

    Parameters
    ----------
    x : relax.Expr
        Panels, `(rows, in_channels, lanes)`.
    weights : sequence of relax.Expr
        The arrays of a `PackedSparse`: indptr, channels, offsets, values.
    attrs : dict
        `channels`: output channels; `tiling`: the fields of a `SparseTiling`.
    """
    return _call(SPARSE_LINEAR, [x, *weights], {**attrs, **NO_EPILOGUE})


def linear(
    x: relax.Expr, weight: relax.Expr, channels: int, tiling: Mapping[str, Any] = DEFAULT
) -> relax.Call:
    """Multiply panels by a packed dense weight with `channels` output channels.

    `tiling` has the fields of a `LinearTiling`, or none: then it is the cost model's.
    """
    attrs = {"channels": channels, **_tiling(tiling)}
    return _call(LINEAR, [x, weight], {**attrs, **NO_EPILOGUE})


def layer_norm(x: relax.Expr, gamma: relax.Expr, beta: relax.Expr, epsilon: float) -> relax.Call:
    """Normalize panels over their channels; `gamma` and `beta` are `(channels,)`."""
    return _call(LAYER_NORM, [x, gamma, beta], {"epsilon": epsilon})


def attention(
    query: relax.Expr,
    key: relax.Expr,
    value: relax.Expr,
    bias: relax.Expr | None,
    attrs: dict[str, Any],
) -> relax.Call:
    """Attend with panels of `heads * head_dim` channels.

    Parameters
    ----------
    query, key, value : relax.Expr
        Panels.
    bias : relax.Expr, optional
        Added to the scaled scores, `(batch | 1, heads | 1, tokens | 1, key tokens)`.
    attrs : dict
        `batch`, `tokens`, `key_tokens`, `heads`, `head_dim`, `scale`.
    """
    return _call(ATTENTION, [query, key, value, *([bias] if bias is not None else [])], attrs)


def image_to_panels(x: relax.Expr, lanes: int) -> relax.Call:
    """Lay out `x` `(batch, channels, height, width)` as panels, a row of the image in each."""
    return _call(IMAGE_TO_PANELS, [x], {"lanes": lanes})


def panels_to_image(panels: relax.Expr, shape: Sequence[int]) -> relax.Call:
    """Return the image of shape `shape` `(batch, channels, height, width)` in the panels."""
    return _call(PANELS_TO_IMAGE, [panels], {"shape": list(shape)})


def sparse_conv2d(
    x: relax.Expr, weights: Sequence[relax.Expr], conv: Conv2d, tiling: dict[str, Any]
) -> relax.Call:
    """Convolve panels of images with a packed sparse weight (`weights` as in `sparse_linear`)."""
    attrs = {"conv": dataclasses.asdict(conv), "tiling": tiling}
    return _call(SPARSE_CONV2D, [x, *weights], {**attrs, **NO_EPILOGUE})


def conv2d(
    x: relax.Expr, weight: relax.Expr, conv: Conv2d, tiling: Mapping[str, Any] = DEFAULT
) -> relax.Call:
    """Convolve panels of images with a packed dense weight; `tiling` as of `linear`."""
    attrs = {"conv": dataclasses.asdict(conv), **_tiling(tiling)}
    return _call(CONV2D, [x, weight], {**attrs, **NO_EPILOGUE})


def depthwise_conv2d(
    x: relax.Expr, weight: relax.Expr, conv: Conv2d, tiling: Mapping[str, Any] = DEFAULT
) -> relax.Call:
    """Convolve each channel of panels with its own `weight[channel]`; `tiling` as of `linear`."""
    attrs = {"conv": dataclasses.asdict(conv), **_tiling(tiling)}
    return _call(DEPTHWISE_CONV2D, [x, weight], {**attrs, **NO_EPILOGUE})


def from_image(call: relax.Call, image: relax.Expr) -> relax.Call:
    """Return a convolution that reads `image` instead of its panels."""
    return _call(call.op.name, [image, *call.args[1:]], call.attrs)


def to_image(call: relax.Call) -> relax.Call:
    """Return a convolution whose result is the image instead of its panels."""
    return _call(call.op.name, list(call.args), {**call.attrs, "to_image": True})


def is_image(call: relax.Call) -> bool:
    """Whether one of our operators returns an image."""
    is_convolution = is_call_to(call, *CONVOLUTIONS) and "to_image" in call.attrs
    return is_convolution or is_call_to(call, PANELS_TO_IMAGE)


def max_pool2d(x: relax.Expr, pool: Pool2d) -> relax.Call:
    """Return the maximum of panels over windows of the image."""
    return _call(MAX_POOL2D, [x], {"pool": dataclasses.asdict(pool)})


def avg_pool2d(x: relax.Expr, pool: Pool2d) -> relax.Call:
    """Return the mean of panels over windows of the image."""
    return _call(AVG_POOL2D, [x], {"pool": dataclasses.asdict(pool)})


def global_avg_pool2d(x: relax.Expr, shape: Sequence[int], lanes: int) -> relax.Call:
    """Return the mean over an image of shape `shape` as panels of `lanes` lanes, in all of them."""
    return _call(GLOBAL_AVG_POOL2D, [x], {"shape": list(shape), "lanes": lanes})


def global_max_pool2d(x: relax.Expr, shape: Sequence[int], lanes: int) -> relax.Call:
    """Return the maximum over an image; see `global_avg_pool2d`."""
    return _call(GLOBAL_MAX_POOL2D, [x], {"shape": list(shape), "lanes": lanes})


def upsample2d(
    x: relax.Expr, shape: Sequence[int], factors: tuple[int, int], lanes: int
) -> relax.Call:
    """Repeat every pixel of an image of shape `shape` vertically and horizontally.

    The result lies in panels of `lanes` lanes.
    """
    attrs = {"shape": list(shape), "factors": list(factors), "lanes": lanes}
    return _call(UPSAMPLE2D, [x], attrs)


def bilinear2d(x: relax.Expr, resize: Resize2d) -> relax.Call:
    """Enlarge the image in panels by linear interpolation."""
    return _call(BILINEAR2D, [x], {"resize": dataclasses.asdict(resize)})


def hardswish(x: relax.Expr) -> relax.Call:
    """Return ``x * clip(x / 6 + 1 / 2, 0, 1)``."""
    return relax.Call(tvm.ir.Op.get(HARDSWISH), [x])


def conv_of(call: relax.Call) -> Conv2d:
    """Return the convolution that a call computes."""
    return Conv2d(**_fields(call.attrs["conv"]))


def pool_of(call: relax.Call) -> Pool2d:
    """Return the pooling that a call computes."""
    return Pool2d(**_fields(call.attrs["pool"]))


def resize_of(call: relax.Call) -> Resize2d:
    """Return the enlargement that a call computes."""
    return Resize2d(**_fields(call.attrs["resize"]))


def _fields(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, bool | int | str) else tuple(int(v) for v in value)
        for name, value in attrs.items()
    }


def _tiling(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"tiling": dict(fields)} if fields else {}


# An epilogue; `bias` and `residual` say that such an argument follows.
NO_EPILOGUE: dict[str, Any] = {"bias": False, "residual": False, "activation": ""}


def with_epilogue(
    call: relax.Call,
    *,
    bias: relax.Expr | None = None,
    residual: relax.Expr | None = None,
    activation: str = "",
) -> relax.Call:
    """Return a linear call or a convolution with one more step of epilogue.

    The epilogue is ``activation(y + bias + residual)``: `bias` `(channels,)` comes before
    `residual` (panels of y's shape) in the arguments.
    """
    attrs = dict(call.attrs.items())
    args = list(call.args)
    if bias is not None:
        args.insert(len(args) - bool(attrs["residual"]), bias)
        attrs["bias"] = True
    if residual is not None:
        args.append(residual)
        attrs["residual"] = True
    if activation:
        attrs["activation"] = activation
    return _call(call.op.name, args, attrs)


def of_layer(call: relax.Call, layer: str) -> relax.Call:
    """Return a linear call or a convolution that knows which layer of the model it is."""
    return _call(call.op.name, list(call.args), {**call.attrs, "layer": layer})


def layer_of(call: relax.Expr) -> str | None:
    """Return the name that `of_layer` gave to a call, or None."""
    named = is_call_to(call, *WITH_EPILOGUE) and "layer" in call.attrs
    return str(call.attrs["layer"]) if named else None


def _call(name: str, args: list[relax.Expr], attrs: Mapping[str, Any]) -> relax.Call:
    return relax.Call(tvm.ir.Op.get(name), args, tvm.ir.DictAttrs(dict(attrs)))


Infer = Callable[[relax.Call, relax.BlockBuilder], relax.Type]


def _register(name: str, infer: Infer) -> None:
    if name not in tvm.ir.Op.list_op_names():
        tvm.ir._ffi_api.RegisterOp(name, f"{name} on panels [rows, channels, lanes]")
    tvm.ir.register_op_attr(name, "FInferType", infer)
    tvm.ir.register_op_attr(name, "FPurity", True)


def _infer_to_panels(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    shape = static_shape(call.args[0])
    if shape is None:
        raise ValueError(f"to_panels needs a static shape, got {call.args[0].ty}")
    layout = Layout.of(shape, int(call.attrs["lanes"]))
    return relax.TensorType((layout.rows, layout.channels, layout.lanes), "float32")


def _infer_from_panels(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    return relax.TensorType([int(e) for e in call.attrs["shape"]], "float32")


def _infer_linear(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    rows, _, lanes = call.args[0].ty.shape
    return relax.TensorType((rows, int(call.attrs["channels"]), lanes), "float32")


def _infer_image_to_panels(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    shape = static_shape(call.args[0])
    if shape is None:
        raise ValueError(f"image_to_panels needs a static shape, got {call.args[0].ty}")
    batch, channels, height, _ = shape
    return relax.TensorType((batch * height, channels, int(call.attrs["lanes"])), "float32")


def _infer_conv2d(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    conv = conv_of(call)
    shape: tuple[int, ...] = (conv.batch * conv.out_height, conv.out_channels, conv.lanes_out)
    if is_image(call):
        shape = (conv.batch, conv.out_channels, conv.out_height, conv.out_width)
    return relax.TensorType(shape, "float32")


def _infer_pool2d(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    pool = pool_of(call)
    rows = pool.batch * pool.out_height
    return relax.TensorType((rows, pool.channels, pool.lanes_out), "float32")


def _infer_global_pool2d(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    batch, channels = (int(extent) for extent in call.attrs["shape"][:2])
    return relax.TensorType((batch, channels, int(call.attrs["lanes"])), "float32")


def _infer_upsample2d(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    rows, channels, _ = call.args[0].ty.shape
    rows = int(rows) * int(call.attrs["factors"][0])
    return relax.TensorType((rows, channels, int(call.attrs["lanes"])), "float32")


def _infer_bilinear2d(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    resize = resize_of(call)
    rows = resize.batch * resize.out_height
    return relax.TensorType((rows, resize.channels, resize.lanes_out), "float32")


def _infer_same(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    return call.args[0].ty


def _legalize_hardswish(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def body(x: te.Tensor) -> te.Tensor:
        def value(*i: Any) -> Any:
            factor = x(*i) * tirx.const(1 / 6, "float32") + tirx.const(0.5, "float32")
            one, zero = tirx.const(1, "float32"), tirx.const(0, "float32")
            return x(*i) * tirx.max(tirx.min(factor, one), zero)

        return te.compute(x.shape, value, name="hardswish")

    return builder.call_te(body, call.args[0], primfunc_name_hint="hardswish")


_register(TO_PANELS, _infer_to_panels)
_register(FROM_PANELS, _infer_from_panels)
_register(SPARSE_LINEAR, _infer_linear)
_register(LINEAR, _infer_linear)
_register(LAYER_NORM, _infer_same)
_register(ATTENTION, _infer_same)
_register(IMAGE_TO_PANELS, _infer_image_to_panels)
_register(PANELS_TO_IMAGE, _infer_from_panels)
_register(SPARSE_CONV2D, _infer_conv2d)
_register(CONV2D, _infer_conv2d)
_register(DEPTHWISE_CONV2D, _infer_conv2d)
_register(MAX_POOL2D, _infer_pool2d)
_register(AVG_POOL2D, _infer_pool2d)
_register(GLOBAL_AVG_POOL2D, _infer_global_pool2d)
_register(GLOBAL_MAX_POOL2D, _infer_global_pool2d)
_register(UPSAMPLE2D, _infer_upsample2d)
_register(BILINEAR2D, _infer_bilinear2d)
_register(HARDSWISH, _infer_same)
tvm.ir.register_op_attr(HARDSWISH, "FLegalize", _legalize_hardswish)
