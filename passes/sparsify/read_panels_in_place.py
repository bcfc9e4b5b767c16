"""transpose(panels_to_image(p)) => transposes, reshapes and slices of p

A transpose of an image can read the panels themselves, of whatever type. Both layout changes are
written as ordinary operators, so that they fuse into one loop nest with the operators that follow.

Runs after `MoveImagesToPanels`.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.passes.ir.view_chains import RESHAPING


@tvm.transform.module_pass(opt_level=0, name="ReadPanelsInPlace")
class ReadPanelsInPlace:
    """Let transposes of images read their panels."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` without images that are only transposed."""
        return rewrite_calls(mod, _read_in_place)


def _read_in_place(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    if not is_call_to(call, "relax.permute_dims"):
        return None
    views, image = [call], lookup(call.args[0])
    while is_call_to(image, *RESHAPING):
        views.append(image)
        image = lookup(image.args[0])
    if not is_call_to(image, operators.PANELS_TO_IMAGE.name):
        return None
    panels, shape = operators.PANELS_TO_IMAGE.operand(image, "x"), static_shape(image)
    lanes = static_shape(panels)
    if shape is None or lanes is None:
        return None
    batch, channels, height, width = shape
    value = emit(relax.op.reshape(panels, (batch, height, channels, lanes[2])))
    if lanes[2] > width:
        value = emit(relax.op.strided_slice(value, [3], [0], [width]))
    if value.ty.dtype != call.ty.dtype:
        value = emit(relax.op.astype(value, call.ty.dtype))
    value = relax.op.permute_dims(value, [0, 2, 1, 3])
    for view in reversed(views):
        value = relax.Call(view.op, [emit(value), *view.args[1:]], view.attrs)
    return value
