"""AcceptUnaligned: kernels of tensors at multiples of 64 => kernels of tensors at any address

TVM's kernels expect the alignment of its own allocator and refuse other memory. The inputs of a
network lie where the user has them, in NumPy often 16 bytes behind a multiple of 64, and would have
to be copied first. Vector loads are as fast without the promise of an alignment.

Runs last, after scheduling.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx


@tvm.transform.module_pass(opt_level=0, name="AcceptUnaligned")
class AcceptUnaligned:
    """Let every PrimFunc take tensors that are aligned as their elements are."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` with the buffers of all parameters aligned as their elements are."""
        functions = {
            gvar: accept_unaligned(func) if isinstance(func, tirx.PrimFunc) else func
            for gvar, func in mod.functions_items()
        }
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def accept_unaligned(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return `func` with the buffers of its parameters aligned as their elements are."""
    parameters = {
        var: _unaligned(var) for var in func.params if isinstance(var.ty, tirx.BufferType)
    }
    return tvm_ffi.structural_map(func, (tvm.ir.Var, lambda var: parameters.get(var, var)))


def _unaligned(buffer: tvm.ir.Var) -> tvm.ir.Var:
    alignment = max(tvm.DataType(buffer.dtype).bits // 8, 1)
    return tirx.decl_buffer(
        buffer.shape,
        buffer.dtype,
        buffer.name,
        strides=buffer.strides,
        elem_offset=buffer.elem_offset,
        scope=buffer.scope(),
        data_alignment=alignment,
        offset_factor=buffer.offset_factor,
        layout=buffer.layout,
    )
