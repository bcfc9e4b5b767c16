"""Finds the products that a network reads as integers, which therefore have to be exact."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import tvm
from tvm import relax

from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.dataflow import Dataflow, dataflow_blocks
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.view_chains import CHANGES

_PRODUCTS = (
    *("relax.matmul", "relax.nn.conv1d", "relax.nn.conv2d"),
    *(operators.QUANTIZED_MATMUL.name, operators.QUANTIZED_CONV2D.name),
)
_EXACT = (*CHANGES, "relax.add", "relax.subtract", "relax.multiply", "relax.concat")
"""What a product may go through on its way to a cast. Sums and multiples of integers are some."""


class OrReadAsIntegers(Collection[str]):
    """Names of layers, and those of the products of a module that are cast to integers.

    float32 holds every integer up to 2**24, and float16 those up to 2,048.
    """

    def __init__(self, names: Collection[str], mod: tvm.IRModule) -> None:
        self._names = names
        self._exact = frozenset(name for block in dataflow_blocks(mod) for name in _exact(block))

    def __contains__(self, layer: object) -> bool:
        return layer in self._exact or layer in self._names

    def __iter__(self) -> Iterator[str]:
        return iter((*self._names, *self._exact))

    def __len__(self) -> int:
        return len(self._names) + len(self._exact)


def _exact(block: Dataflow) -> Iterator[str]:
    """Yield the names of the products of a block that are cast to integers."""
    seen: set[relax.Expr] = set()
    for value in block.bound.values():
        if is_call_to(value, "relax.astype") and "int" in str(value.ty.dtype):
            yield from _products(value.args[0], block, seen)


def _products(value: relax.Expr, block: Dataflow, seen: set[relax.Expr]) -> Iterator[str]:
    if value in seen:
        return
    seen.add(value)
    if isinstance(value, relax.Tuple):
        for field in value:
            yield from _products(field, block, seen)
        return
    call = block.lookup(value)
    if is_call_to(call, *_PRODUCTS) and isinstance(value, relax.Var):
        yield value.name
    elif is_call_to(call, *_EXACT):
        for arg in call.args:
            yield from _products(arg, block, seen)
