"""strided_slice(x w + b, channels) => x w[:, channels] + b[channels]

Models compute q, k and v by one linear layer and slice its result. A slice of the channels is the
linear layer with a slice of the weights. Three such layers write directly what attention reads.
The pass only does this where the result is read in disjoint slices and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.passes.ir.dataflow import Dataflow, dataflow_blocks
from tvm_sparse.passes.ir.expressions import constant_rank, is_call_to
from tvm_sparse.passes.ir.rewriting import Emit, Lookup, rewrite_calls
from tvm_sparse.passes.ir.shapes import extents_of
from tvm_sparse.passes.ir.view_chains import follow


@tvm.transform.module_pass(opt_level=0, name="SplitLinear")
class SplitLinear:
    """Split linear layers whose result is only read in slices of its channels."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Return `mod` with one linear layer for each slice."""
        return rewrite_calls(mod, _split, keep=_slices_of_what_is_read_whole(mod))


def _split(call: relax.Call, lookup: Lookup, emit: Emit) -> relax.Expr | None:
    channels = _channels(call)
    linear = _Linear.match(call.args[0], lookup) if channels is not None else None
    if linear is None or channels is None:
        return None
    weight = np.ascontiguousarray(linear.weight.value.numpy()[:, channels])
    product = relax.op.matmul(linear.x, relax.const(weight, linear.weight.ty.dtype))
    # Reports find the parts of a layer by its name.
    part = emit(product, linear.product.name)
    if linear.bias is None:
        return part
    bias = relax.const(linear.bias.value.numpy()[channels], linear.bias.ty.dtype)
    return relax.op.add(part, bias)


@dataclass(frozen=True)
class _Linear:
    x: relax.Expr
    weight: tvm.ir.GenericConst
    bias: tvm.ir.GenericConst | None
    product: relax.Expr
    """The variable of `x weight`, without the bias."""

    @staticmethod
    def match(value: relax.Expr, lookup: Lookup) -> _Linear | None:
        bias, product, call = None, value, lookup(value)
        if is_call_to(call, "relax.add"):
            product, bias = call.args if constant_rank(call.args[1]) == 1 else call.args[::-1]
            call = lookup(product) if constant_rank(bias) == 1 else None
        if not is_call_to(call, "relax.matmul") or constant_rank(call.args[1]) != 2:
            return None
        x, weight = call.args
        wide = bias is None or extents_of(bias) == (extents_of(weight) or ())[1:]
        return _Linear(x, weight, bias, product) if wide else None


def _channels(call: relax.Call) -> slice | None:
    """Return the range of the last axis that `call` cuts out, or None if it does something else."""
    if not is_call_to(call, "relax.strided_slice"):
        return None
    view = follow(call, lambda value: value)
    whole, width = extents_of(call.args[0]) or (), (extents_of(call) or (0,))[-1]
    if view is None or view.shape != (*whole[:-1], width) or not view.base.same_as(call.args[0]):
        return None
    return slice(view.offset, view.offset + width)


def _slices_of_what_is_read_whole(mod: tvm.IRModule) -> list[relax.Call]:
    """Return slices of results that are also read whole; splitting these would only add work."""
    return [
        value
        for block in dataflow_blocks(mod)
        for value in block.bound.values()
        if is_call_to(value, "relax.strided_slice") and not _is_read_in_parts(value.args[0], block)
    ]


def _is_read_in_parts(value: relax.Expr, block: Dataflow) -> bool:
    linear = _Linear.match(value, block.lookup)
    if linear is None:
        return False
    readers = block.readers[value]
    parts = [_channels(block.lookup(reader)) for reader in readers]
    read = [channel for part in parts if part for channel in range(part.start, part.stop)]
    return (
        None not in parts
        and len(set(read)) == len(read)
        and block.is_read_only_by(value, readers)
        and block.is_read_only_by(linear.product, [value, *readers])
    )
