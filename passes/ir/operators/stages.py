"""Which stage of a tensor column computes a call."""

from __future__ import annotations

from tvm import relax

from tvm_sparse.cpu.profile import SHORTEST_VECTOR_BITS, CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, FLOATS, DType
from tvm_sparse.passes.ir.operators.conv2d import is_image
from tvm_sparse.passes.ir.operators.table import operator_of
from tvm_sparse.passes.ir.shapes import extents_of, is_image_shape, is_symbolic
from tvm_sparse.schedules.stage import Stage


def stage_of(call: relax.Expr, images: int, cpu: CpuProfile) -> Stage | None:
    """Return the stage that computes a call for runs of rows of `images` images.

    Returns
    -------
    Stage or None
        Its operands have the names that `operands_of` returns. None if no stage computes the call:
        its operator has none, or its tensors are not static, not activations or no panels. The
        lanes of panels fill vectors; other tensors with three axes need not. float16 tensors are
        activations where the processor has arithmetic for them.
    """
    operator = operator_of(call)
    if operator is None or operator.stage is None:
        return None
    shape = extents_of(call)
    if shape is None or len(shape) != 3 + is_image(call):
        return None
    dtype = str(call.ty.dtype)
    known = set(FLOATS) if cpu.has_half else {ACTIVATIONS}
    if dtype not in known:
        return None
    if len(shape) == 3 and shape[2] % (SHORTEST_VECTOR_BITS // DType(dtype).bits) != 0:
        return None
    if shape[0] % images != 0 or operator.images(call) not in (None, images):
        return None
    operands = operator.operands_of(call).values()
    shapes = [extents_of(operand) for operand in operands]
    if any(known is None for known in shapes):
        return None
    is_sized = any(is_symbolic(known or ()) for known in (shape, *shapes))
    if not is_image_shape(shape) or (is_sized and not operator.takes_sizes):
        return None
    return operator.stage(call, images, cpu)


def images_of(call: relax.Expr) -> int | None:
    """Return how many images, or sequences, a call works on; None if any number will do."""
    operator = operator_of(call)
    return None if operator is None else operator.images(call)


def operands_of(call: relax.Expr) -> dict[str, relax.Expr]:
    """Return the tensors that a call of one of the operators reads, by name."""
    operator = operator_of(call)
    return {} if operator is None else operator.operands_of(call)
