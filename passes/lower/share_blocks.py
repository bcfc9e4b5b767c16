"""ShareBlocks: alloc_storage([4 * batch * sequence]) => alloc_storage([the next power of two])

TVM's pool of memory keeps each block that it has ever allocated, for tensors of the same size.
Where an inference chooses the sizes, it would keep a block for each of them. If all blocks are
powers of two, every size finds one of few kinds: the smaller kinds together take no more memory
than the largest. What lies behind a tensor in its block is never touched, so that it takes no
memory at all.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx

from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls

SMALLEST = 4096
"""Bytes of the smallest block: the pool takes whole pages."""


@tvm.transform.module_pass(opt_level=0, name="ShareBlocks")
class ShareBlocks:
    """Allocate blocks whose bytes are powers of two, where only an inference knows the bytes.

    Runs behind TVM's `LowerAllocTensor`, which writes out the storages.
    """

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with blocks of few kinds."""

        def rewrite(call: relax.Call, _lookup: Lookup, _emit: Emit) -> relax.Expr | None:
            if not is_call_to(call, "relax.memory.alloc_storage"):
                return None
            shape, *others = call.args
            (size,) = shape.values
            if isinstance(size, tirx.IntImm):
                return None
            block = relax.ShapeExpr([_power_of_two(size)])
            return relax.Call(call.op, [block, *others], call.attrs, call.ty_args)

        return rewrite_calls(mod, rewrite)


def _power_of_two(size: Any) -> Any:
    """Return the least power of two that is at least `size` and `SMALLEST`."""
    one, bits = tirx.IntImm("int64", 1), tirx.IntImm("int32", 64)
    most = tirx.max(size, tirx.IntImm("int64", SMALLEST)) - one
    return tirx.shift_left(one, tirx.Cast("int64", bits - tirx.clz(most)))
