"""Buffers as the hand-written kernels use them: arguments, flat views, register arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script import builder as T

from tvm_sparse.cpu.rates import PARALLEL_ELEMENTS
from tvm_sparse.dtypes import ACTIVATIONS, DType, bytes_of
from tvm_sparse.schedules.emit.sizes import size
from tvm_sparse.sizes.extent import Extent

if TYPE_CHECKING:
    from tvm.ir import Expr

STACK_LIMIT_BYTES = 1024
"""Bytes below which TVM puts a buffer on the stack, from where LLVM promotes it to registers. A
larger buffer becomes a heap allocation (`runtime::kMaxStackAlloca` of TVM)."""

HEAP_LEAST_BYTES = 16 * STACK_LIMIT_BYTES
"""Fewest bytes of scratch memory. TVM's storage rewriting gives a buffer the memory of another one
that is no longer needed, if their sizes differ by a factor of at most 16. From this size on,
scratch memory never shares the memory of `Registers`, which would then be loaded and stored with
every multiply-add."""


def argument(name: str, *extents: int | Expr, dtype: str = ACTIVATIONS) -> Expr:
    """Add a buffer parameter; its extents are int64, as in the operators that Relax lowers."""
    shape = tuple(size(e) if isinstance(e, int) else e for e in extents)
    return T.arg(name, T.buffer(shape, dtype))


def scratch(size: int, dtype: str = ACTIVATIONS) -> Expr:
    """Allocate flat memory, which lasts until the current loop, condition or block ends.

    TVM looks neither for a better place for this memory nor for unused parts of it. With bounds
    that are expressions of rows, such a search takes longer than the rest of the compilation.
    """
    least = HEAP_LEAST_BYTES // DType(dtype).bytes if dtype in list(DType) else 1
    return _allocate(max(size, least), dtype)


def _allocate(size: int, dtype: str = ACTIVATIONS) -> Expr:
    return T.alloc_buffer((T.int64(size),), dtype)


def number(value: float, dtype: DType = ACTIVATIONS) -> Expr:
    """Return a number of an activation's type."""
    return tirx.const(float(value), dtype)


def filled(value: float, lanes: int, dtype: DType = ACTIVATIONS) -> Expr:
    """Return a vector that holds a number in all of its lanes."""
    return across(number(value, dtype), lanes)


def converted(value: Expr, dtype: DType) -> Expr:
    """Return a value or a vector as one of type `dtype`."""
    held = value.ty.dtype
    if held.with_lanes(1) == dtype:
        return value
    return T.Cast(f"{dtype}x{held.lanes}" if held.lanes > 1 else str(dtype), value)


def across(value: Expr, lanes: int) -> Expr:
    """Return a vector that holds a value in all of its lanes; a vector of one lane is a scalar."""
    return T.Broadcast(value, lanes) if lanes > 1 else value


def opaque(value: Expr) -> Expr:
    """Pass an int64 value through memory, which LLVM removes again.

    TVM computes the region of every buffer that is accessed, and replaces rows in indices and
    conditions by their expressions. Where these are minima, the union of thousands of indices takes
    minutes. TVM knows nothing of a value that comes from memory.
    """
    memory = scratch(1, "int64")
    T.buffer_store(memory, value, [T.int64(0)])
    return T.bind(memory[0])


def flat(start: Expr, size: int | Expr, dtype: str = ACTIVATIONS) -> Expr:
    """Return a flat view of memory from `start` on, for which LLVM keeps one base pointer.

    The function must not write this memory: TVM tells LLVM that two buffers never alias, and its
    storage rewriting does not see accesses through a view.
    """
    return T.decl_buffer((size,), dtype, data=T.bind(T.address_of(start)))


def whole(buffer: Expr, shape: Sequence[int | Expr]) -> Expr:
    """Return all of a buffer, for the lists of what an sblock reads and writes."""
    return buffer[tuple(slice(0, extent) for extent in shape)]


def vector(start: Expr, lanes: int) -> Expr:
    """Return the index of `lanes` consecutive elements."""
    return T.Ramp(start, T.int64(1), lanes) if lanes > 1 else start


def job_loop(count: Expr | int, elements: int) -> Any:
    """Open a loop over `count` jobs on `elements` values, which is parallel if that pays.

    It is parallel if only an inference knows how many values there are, too.
    """
    is_parallel = isinstance(elements, Extent) or elements >= PARALLEL_ELEMENTS
    loop = T.parallel if is_parallel else T.serial
    return loop(T.int64(0), T.int64(count) if isinstance(count, int) else count)


def masked(value: Expr, valid: int, other: Expr) -> Expr:
    """Return a vector with the lanes from `valid` on replaced."""
    width = value.ty.dtype.lanes
    if valid >= width:
        return value
    return T.Shuffle([value, other], [i if i < valid else width + i for i in range(width)])


def only_lanes(value: Expr, begin: Expr, end: Expr, other: Expr) -> Expr:
    """Return a vector with the lanes outside of ``[begin, end)``, int64, replaced.

    TVM can neither bind a vector of conditions nor write down one that it proves: the bounds should
    be `opaque`.
    """
    width = value.ty.dtype.lanes
    numbers = T.Ramp(T.int32(0), T.int32(1), width)
    first, last = (T.Broadcast(T.Cast("int32", bound), width) for bound in (begin, end))
    return T.Select(numbers >= first, T.Select(numbers < last, value, other), other)


def prefetch(element: Expr, *, to_l1: bool = True) -> None:
    """Ask for the cache line of an element, which may lie beyond the buffer's end.

    It comes to L1, or to the nearest cache behind L1.
    """
    for_reading, locality, data = T.int32(0), T.int32(3 if to_l1 else 1), T.int32(1)
    arguments = (T.address_of(element), for_reading, locality, data)
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", *arguments))


class Registers:
    """An array of `count` vectors of `lanes` values, allocated in the current sblock.

    The array is cut into buffers that are small enough to be promoted to registers. Its indices
    must be Python integers.
    """

    def __init__(self, count: int, lanes: int, dtype: str = ACTIVATIONS) -> None:
        self.lanes = lanes
        self._per_buffer = (STACK_LIMIT_BYTES - 1) // (bytes_of(dtype) * lanes)
        self._buffers = [
            _allocate(min(self._per_buffer, count - first) * lanes, dtype)
            for first in range(0, count, self._per_buffer)
        ]

    def __getitem__(self, i: int) -> Expr:
        return self._buffers[i // self._per_buffer][self._place(i)]

    def __setitem__(self, i: int, value: Expr) -> None:
        T.buffer_store(self._buffers[i // self._per_buffer], value, [self._place(i)])

    def _place(self, i: int) -> Expr:
        first = i % self._per_buffer * self.lanes
        return T.Ramp(first, 1, self.lanes) if self.lanes > 1 else T.int32(first)
