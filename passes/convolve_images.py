"""conv(image_to_panels(x)) => conv(x), and panels_to_image(conv(p)) => conv(p), which is an image

A convolution gathers the rows that it sees from wherever they are, and stores whole vectors. Where
all lanes of the panels are columns of the image, it does without the panels.

Part of `FormRegions`: with ``columns="off"`` every operator stays by itself, layout changes too.
"""

from __future__ import annotations

from collections import Counter

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sparse.passes import operators
from tvm_sparse.passes.dataflow import count_uses
from tvm_sparse.passes.operators import is_call_to, static_shape


def convolve_images(mod: tvm.IRModule) -> tvm.IRModule:
    """Return `mod` without the panels that only a convolution reads or writes."""
    rewriter = _Rewriter(mod)
    for gvar, func in mod.functions_items():
        if isinstance(func, relax.Function):
            rewriter.uses = count_uses(func)
            rewriter.builder_.update_func(gvar, rewriter.visit_expr(func))
    return relax.transform.DeadCodeElimination()(rewriter.builder_.get())


@mutator
class _Rewriter(PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.uses: Counter[relax.Var] = Counter()

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        is_only_reader = bool(call.args) and self.uses[call.args[0]] == 1
        call = super().visit_call_(call)
        source = self.lookup_binding(call.args[0]) if is_only_reader else None
        if not isinstance(source, relax.Call):
            return call
        makes_panels = is_call_to(source, operators.IMAGE_TO_PANELS) and _is_full(source)
        if makes_panels and is_call_to(call, *operators.CONVOLUTIONS):
            return operators.from_image(call, source.args[0])
        makes_image = is_call_to(call, operators.PANELS_TO_IMAGE) and _is_full(call)
        if makes_image and is_call_to(source, *operators.CONVOLUTIONS):
            return operators.to_image(source)
        return call


def _is_full(change: relax.Call) -> bool:
    """Whether image and panels of a layout change have equally long rows."""
    before, after = static_shape(change.args[0]), static_shape(change)
    return before is not None and after is not None and before[-1] == after[-1]
