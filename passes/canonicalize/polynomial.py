"""Reads the arithmetic of a Relax function as polynomials.

This recognizes a formula whatever the order of its terms: ``(0.5 x)(1 + t)``,
``x (0.5 t + 0.5)`` and ``0.5 (x + x t)`` are all ``0.5 x + 0.5 x t``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from tvm import relax

from tvm_sparse.passes.ir.expressions import is_call_to, uniform_value
from tvm_sparse.passes.ir.rewriting import Lookup

Polynomial: TypeAlias = Mapping[tuple[int, ...], float]
"""Maps the exponents of the atoms in a term to the coefficient of the term."""

ARITHMETIC = tuple(
    f"relax.{name}" for name in ("add", "subtract", "multiply", "divide", "power", "negative")
)

# Far above float32 rounding of a constant (6e-8), far below the next published variant of a
# formula (GELU's 0.044715 against 0.04553992 of its Gaussian-moment fit).
TOLERANCE = 1e-5

# The deepest formula here, GELU with x * x * x, has 7 operations above x.
DEPTH = 10


def equal(a: Polynomial, b: Polynomial) -> bool:
    """Whether the coefficients of two polynomials differ by no more than rounding."""
    return a.keys() == b.keys() and all(
        math.isclose(a[term], b[term], rel_tol=TOLERANCE) for term in a
    )


def polynomial(
    value: relax.Expr, atoms: Sequence[relax.Expr], lookup: Lookup, depth: int = DEPTH
) -> Polynomial | None:
    """Return `value` as a polynomial of `atoms`, or None if it is no polynomial of them."""
    for position, atom in enumerate(atoms):
        if value.same_as(atom):
            return {tuple(int(i == position) for i in range(len(atoms))): 1.0}
    number = uniform_value(value)
    if number is not None:
        return {(0,) * len(atoms): number}
    call = lookup(value)
    if depth == 0 or not is_call_to(call, *ARITHMETIC):
        return None
    operands = [polynomial(arg, atoms, lookup, depth - 1) for arg in call.args]
    known = [operand for operand in operands if operand is not None]
    return _combine(call.op.name, known) if len(known) == len(operands) else None


def _combine(op: str, operands: Sequence[Polynomial]) -> Polynomial | None:
    a = operands[0]
    if op == "relax.negative":
        return _sum(a, -1.0, {})
    b = operands[1]
    if op == "relax.add":
        return _sum(a, 1.0, b)
    if op == "relax.subtract":
        return _sum(b, -1.0, a)
    if op == "relax.multiply":
        return _product(a, b)
    number = _constant(b)
    if op == "relax.divide":
        return _sum(a, 1 / number, {}) if number else None
    if number not in (2.0, 3.0):
        return None
    square = _product(a, a)
    return square if number == 2.0 else _product(square, a)


def _constant(a: Polynomial) -> float | None:
    return next(iter(a.values())) if len(a) == 1 and not any(next(iter(a))) else None


def _sum(a: Polynomial, factor: float, b: Polynomial) -> Polynomial:
    """Return `a * factor + b`."""
    total: dict[tuple[int, ...], float] = defaultdict(float, b)
    for term, coefficient in a.items():
        total[term] += factor * coefficient
    return {term: coefficient for term, coefficient in total.items() if coefficient}


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: dict[tuple[int, ...], float] = defaultdict(float)
    for left, x in a.items():
        for right, y in b.items():
            total[tuple(i + j for i, j in zip(left, right, strict=True))] += x * y
    return {term: coefficient for term, coefficient in total.items() if coefficient}


def operands(value: relax.Expr, lookup: Lookup, depth: int = DEPTH) -> Iterator[relax.Expr]:
    """Yield `value` and all expressions that arithmetic computes it from, the nearest first."""
    frontier = [value]
    for _ in range(depth):
        yield from frontier
        calls = (lookup(node) for node in frontier)
        below = [arg for call in calls if is_call_to(call, *ARITHMETIC) for arg in call.args]
        frontier = [
            arg
            for i, arg in enumerate(below)
            if uniform_value(arg) is None and not any(arg.same_as(seen) for seen in below[:i])
        ]
