"""Whether a network is so small that one thread computes it as soon as several.

A call that several threads compute is handed to a thread of the engine. The calling thread itself
computes a network of one thread.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvm_sparse.compile_report import CompileReport
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.cpu.rates import HAND_OVER_SECONDS, LAUNCH_SECONDS, PARALLEL_ITERATIONS
from tvm_sparse.passes.ir.operators.operator import PREFIX
from tvm_sparse.passes.ir.shapes import static_shape

_CONTRACTIONS = ("matmul", "conv", "einsum", "attention")
"""Words in the names of operators that sum over products."""


_WORTH_A_TRY = 4.0
"""A network that takes so many times as long as to hand over a call is not planned twice."""


def may_be_small(mod: tvm.IRModule, made: CompileReport, cpu: CpuProfile) -> bool:
    """Return whether a network may be computed as soon by one thread.

    Where its operators or its plans were measured, they were so on several threads.

    Parameters
    ----------
    mod : IRModule
        A module with known sizes, from `FormRegions`.
    made : CompileReport
        What became of it.
    cpu : CpuProfile
        The processor that it is planned for.
    """
    return (
        cpu.cores > 1
        and not made.records.are_used
        and made.seconds < _WORTH_A_TRY * HAND_OVER_SECONDS
        and _saved_by_threads(mod, cpu) < HAND_OVER_SECONDS
    )


def is_small(made: CompileReport, alone: CompileReport) -> bool:
    """Return whether several threads save less time than it takes to call them.

    Parameters
    ----------
    made, alone : CompileReport
        The network as several threads compute it, and as one does.
    """
    return alone.seconds < made.seconds + HAND_OVER_SECONDS


def _saved_by_threads(mod: tvm.IRModule, cpu: CpuProfile) -> float:
    """Return the seconds by which all cores compute some operators sooner than one.

    These are the operators that TVM's default schedule computes. A loop nest of few iterations runs
    on one thread in any case. Of a part that ONNX Runtime runs, nothing is known: it may save any
    time.
    """
    iterations = [0.0]

    def visit(value: relax.Expr) -> None:
        if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
            return
        if value.op.name == "relax.call_pure_packed":
            iterations.append(math.inf)
        elif not value.op.name.startswith(PREFIX):
            iterations.append(_iterations(value))

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    parallel = sum(count for count in iterations if count >= PARALLEL_ITERATIONS)
    return parallel / PARALLEL_ITERATIONS * LAUNCH_SECONDS * (1 - 1 / cpu.cores)


def _iterations(call: relax.Call) -> float:
    """Return about how many iterations the loops of an operator have."""
    *read, written = (_elements(value) for value in (*call.args, call))
    if any(word in call.op.name for word in _CONTRACTIONS):
        # Of a product of matrices, this is exact: each of three extents is that of two of them.
        return math.sqrt(math.prod(read[:2]) * written)
    return max([*read, written])


def _elements(value: relax.Expr) -> float:
    """Return the elements of a tensor, or of the largest one of a tuple."""
    if isinstance(value, relax.Tuple):
        return max(map(_elements, value.fields), default=0)
    if not isinstance(value.ty, relax.TensorType):
        return 0
    shape = static_shape(value)
    return math.inf if shape is None else math.prod(shape)
