"""Says why no kernel of ours computes a layer with a constant weight."""

from __future__ import annotations

from tvm import relax

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.shapes import extents_of, is_image_shape
from tvm_sparse.sizes.conv2d import WIDEST_KERNEL

LAYOUTS = {
    "relax.nn.conv1d": ("NCW", "OIW", "NCW"),
    "relax.nn.conv2d": ("NCHW", "OIHW", "NCHW"),
}
"""The layouts of data, kernel and result that our kernels compute, by the operator."""


def refusal(call: relax.Call, *, of_any_width: bool = False) -> str:
    """Return why no kernel of ours computes a call with a constant weight; empty if one does.

    Parameters
    ----------
    call : relax.Call
        A call of an operator with weights, whose second operand is a constant.
    of_any_width : bool
        Whether the rows of images will be cut into strips, so that their width may be open.
    """
    if is_call_to(call, *operators.QUANTIZED):
        return ""
    name = call.op.name.removeprefix("relax.")
    if name not in ("matmul", "nn.conv1d", "nn.conv2d"):
        return f"no sparse kernel computes {name}"
    x, weight = call.args
    other = next((t.ty.dtype for t in (x, weight) if t.ty.dtype != ACTIVATIONS), None)
    if other is not None:
        return f"it computes in {other}, and the kernels in {ACTIVATIONS}"
    shape, weight_shape = extents_of(x), extents_of(weight)
    if shape is None or weight_shape is None or extents_of(call) is None:
        return "its sizes are not known"
    if 0 in shape:
        return "it has no rows"
    known = (*shape[:-1], 1) if of_any_width else shape
    if name != "matmul" and not is_image_shape(known):
        return "its channels or width are symbolic, and the kernels take a batch and a height only"
    if name == "matmul" and len(weight_shape) != 2:
        return f"its weight has rank {len(weight_shape)}, and the kernels take rank 2"
    return "" if name == "matmul" else _refused_conv(call)


def _refused_conv(call: relax.Call) -> str:
    attrs = call.attrs
    layouts = attrs["data_layout"], attrs["kernel_layout"], attrs["out_layout"]
    known = LAYOUTS[call.op.name]
    if layouts != known:
        return f"its layouts are {', '.join(layouts)}, and the kernels take {', '.join(known)}"
    width = (extents_of(call.args[1]) or (0,))[-1]
    if width > WIDEST_KERNEL:
        return f"its kernel is {width} taps wide, and ours take up to {WIDEST_KERNEL}"
    return ""
