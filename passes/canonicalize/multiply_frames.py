"""conv1d(x, w) => transpose(matmul(frames(x), w)), for one long filter after another on one signal

So exporters write the Fourier transform of short frames of sound: hundreds of filters, each as long
as a frame, that move on by a good part of it. There is one input channel, so that no kernel of
images has channels to sum over, and TVM's own loops are slow. Frames that lie one after another in
memory make it the product of two matrices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import relax, te
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.dtypes import ACTIVATIONS
from tvm_sparse.passes.canonicalize.multiply_single_pixels import LEAST_WEIGHTS
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.shapes import static_shape

if TYPE_CHECKING:
    from tvm.ir import Expr

MOST_COPIES = 8
"""How many times the frames may hold a value of the signal."""


@tvm.transform.module_pass(opt_level=0, name="MultiplyFrames")
class MultiplyFrames:
    """Make products of convolutions whose filters are frames of one signal."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with such convolutions as products."""
        multiplier = _Multiplier(mod)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function) and _has_frames(func):
                multiplier.builder_.update_func(gvar, multiplier.visit_expr(func))
        return multiplier.builder_.get()


def _has_frames(func: relax.Function) -> bool:
    found = []
    relax.analysis.post_order_visit(func, lambda value: found.append(_reads_frames(value)))
    return any(found)


def _reads_frames(call: relax.Expr) -> bool:
    """Return whether a call is a convolution of one channel by long constant filters."""
    if not is_call_to(call, "relax.nn.conv1d"):
        return False
    shape, weight_shape, out_shape = map(static_shape, (*call.args, call))
    if shape is None or weight_shape is None or out_shape is None:
        return False
    channels, _, taps = weight_shape
    (stride,) = map(int, call.attrs["strides"])
    return (
        isinstance(call.args[1], tvm.ir.GenericConst)
        and call.ty.dtype == ACTIVATIONS
        and shape[1] == 1
        and not any(map(int, call.attrs["padding"]))
        and set(map(int, call.attrs["dilation"])) == {1}
        and str(call.attrs["data_layout"]) == "NCW"
        and str(call.attrs["kernel_layout"]) == "OIW"
        and taps <= MOST_COPIES * stride
        and channels * taps >= LEAST_WEIGHTS
    )


@mutator
class _Multiplier(PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.layer = ""
        self.frames: dict[tuple[relax.Expr, int, int], relax.Var] = {}

    def visit_dataflow_block_(self, block: relax.DataflowBlock) -> relax.BindingBlock:
        # A dataflow variable is not visible outside its block.
        self.frames.clear()
        return super().visit_dataflow_block_(block)

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.layer = binding.var.name
        super().visit_var_binding_(binding)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        layer, call = self.layer, self.builder_.normalize(super().visit_call_(call))
        if not _reads_frames(call):
            return call
        emit, (x, weight) = self.builder_.emit, call.args
        array = weight.value.numpy()
        matrix = relax.const(np.ascontiguousarray(array[:, 0].T))
        (stride,) = map(int, call.attrs["strides"])
        # The real and the imaginary parts read the same frames.
        key = x, stride, array.shape[2]
        if key not in self.frames:
            self.frames[key] = emit(self.builder_.call_te(_frames, x, *key[1:]))
        product = emit(relax.op.matmul(self.frames[key], matrix), layer)
        return relax.op.permute_dims(product, [0, 2, 1])


def _frames(x: te.Tensor, stride: int, taps: int) -> te.Tensor:
    """Return the frames ``[batch, frame, tap]`` of a signal ``[batch, 1, length]``."""
    batch, _, length = x.shape
    count = (int(length) - taps) // stride + 1

    def value(image: Expr, frame: Expr, tap: Expr) -> Expr:
        return x[image, 0, frame * stride + tap]

    return te.compute((batch, count, taps), value, name="frames")
