"""ExpandBlocks: block_matmul(x, codes, scales, zeros) => matmul(x, (codes - zeros) * scales)

Layers that a kernel of few bits computes stay as they are: those of a few rows, on a processor that
has one. The others become products of floats, which read more bytes, and of which the kernels for
many rows and for zeros are made. The module attribute ``tvm_sparse.expanded`` tells by the names of
these layers why. Runs first, so that all passes see such layers as if the model had held floats.
"""

from __future__ import annotations

import logging
import math

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.layer_report import EXPANDED
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.ir.shapes import static_shape
from tvm_sparse.sizes.block_linear import MOST_ROWS
from tvm_sparse.tilings.block_rows import BLOCK_ROW_LINEAR_FAMILY
from tvm_sparse.tilings.layer import Layer

_log = logging.getLogger("tvm_sparse")


@tvm.transform.module_pass(opt_level=0, name="ExpandBlocks")
class ExpandBlocks:
    """Make floats of the weights of few bits that no kernel of few bits computes."""

    def __init__(self, target: tvm.target.Target | CpuProfile) -> None:
        self.cpu = CpuProfile.of(target)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with such layers as products of floats."""
        expanded: dict[str, str] = {}

        def expand(call: relax.Call, name: str, _emit: Emit) -> relax.Expr | None:
            if not is_call_to(call, operators.BLOCK_MATMUL.name):
                return None
            reason = self._refusal(call, name)
            if not reason:
                return None
            expanded[name] = reason
            return operators.float_matmul(call)

        rewritten = rewrite_layers(mod, expand)
        return rewritten.with_attr(EXPANDED, expanded) if expanded else rewritten

    def _refusal(self, call: relax.Call, name: str) -> str:
        """Return why no kernel of few bits computes a layer; an empty string if one does."""
        shape = static_shape(call.args[0])
        if shape is None:
            return "its rows are known at run time only"
        rows = math.prod(shape[:-1])
        if not rows:
            return "it has no rows"
        problem = operators.block_linear_of(call, rows)
        reason = BLOCK_ROW_LINEAR_FAMILY.refusal(Layer(problem), self.cpu)
        if reason and rows <= MOST_ROWS:
            _log.warning(
                "%s reads its weight of %d bits as float32: %s", name, problem.bits, reason
            )
        return reason
