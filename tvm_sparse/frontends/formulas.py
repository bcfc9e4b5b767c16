"""Formulas of sizes: what a number is that differs between imports at several sizes.

A formula has fewer coefficients than there are probes; the other probes test it. Where sizes are
added, as in the tokens of two texts one behind the other, more probes are taken. The height and the
width of an image that is made smaller are no polynomials of its size, so that the last such sizes
may be parts of formulas, too.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm_ffi import structural_walk

from tvm_sparse.frontends.probes import FEW, Sizes

MOST_TERMS = 3
"""The most terms of a formula, beside a number; one probe more tests it than they need."""


MOST_QUOTIENTS = 2
"""How many sizes that are no polynomials may be parts of formulas: those of an image."""


class Formulas:
    """Finds the formulas of numbers.

    Parameters
    ----------
    at : sequence of Sizes
        The probes.
    variables : mapping of str to tirx.Var
        The variable of each named size.
    """

    def __init__(self, at: Sequence[Sizes], variables: Mapping[str, Any]) -> None:
        self.at, self.variables = at, variables
        self._quotients: dict[str, tuple[Any, Sequence[int]]] = {}

    def of(self, values: Sequence[int]) -> Any:
        """Return an integer, or the expression that has some values at the probes, or None."""
        values = [int(value) for value in values]
        found = formula(values, self.at, self.variables)
        if found is not None or not self._quotients:
            return found
        own = {name: numbers for name, (_, numbers) in self._quotients.items()}
        at = [
            {**sizes, **{name: numbers[i] for name, numbers in own.items()}}
            for i, sizes in enumerate(self.at)
        ]
        known = {name: size for name, (size, _) in self._quotients.items()}
        return formula(values, at, {**self.variables, **known})

    def remember(self, size: Any, values: Sequence[int]) -> None:
        """Remember an expression with its values at the probes, if it is no formula so far."""
        found: list[Any] = []
        structural_walk(size, (tirx.FloorDiv, found.append))
        known = self._quotients.pop(str(size), None)
        if known or (found and self.of(values) is None):
            self._quotients[str(size)] = size, values
        for name in [*self._quotients][:-MOST_QUOTIENTS]:
            del self._quotients[name]


def formula(values: Sequence[int], at: Sequence[Sizes], variables: Mapping[str, Any]) -> Any:
    """Return an integer, or the expression of variables that has some values at the probes.

    Parameters
    ----------
    values : sequence of int
        The number at every probe.
    at : sequence of Sizes
        The probes.
    variables : mapping of str to tirx.Var
        The variable of each named size.

    Returns
    -------
    int or Expr or None
        None if no formula of the form ``factor * size + constant`` fits, nor one with the product
        of sizes in its place, nor, with more than `FEW` probes, one with several such terms.
    """
    values = [int(value) for value in values]
    if len(set(values)) == 1:
        return values[0]
    products = [
        names
        for count in range(1, min(len(variables), 2) + 2)
        for names in itertools.combinations_with_replacement(variables, count)
    ]
    simple = [names for names in products if len(names) < 3]
    for count in range(1, MOST_TERMS + 1 if len(at) > FEW else 2):
        for terms in itertools.combinations(products if len(at) > FEW else simple, count):
            found = _factors(terms, values, at)
            if found is not None:
                return _expression(terms, *found, variables)
    return None


def _factors(
    terms: Sequence[tuple[str, ...]], values: Sequence[int], at: Sequence[Sizes]
) -> tuple[list[int], int] | None:
    """Return whole factors of products of sizes, none of them 0, and what is added to the sum."""
    products = [[math.prod(sizes[name] for name in names) for sizes in at] for names in terms]
    table = np.array([*products, [1] * len(at)]).T
    solved, _, rank, _ = np.linalg.lstsq(table, np.array(values), rcond=None)
    *factors, constant = (round(float(value)) for value in solved)
    if rank <= len(terms) or 0 in factors:
        return None
    sums = table @ np.array([*factors, constant])
    return (factors, constant) if sums.tolist() == list(values) else None


def _expression(
    terms: Sequence[tuple[str, ...]],
    factors: Sequence[int],
    constant: int,
    variables: Mapping[str, Any],
) -> Any:
    total: Any = None
    for names, factor in zip(terms, factors, strict=True):
        product = functools.reduce(operator.mul, (variables[name] for name in names))
        if factor != 1:
            product = product * tirx.IntImm("int64", factor)
        total = product if total is None else total + product
    return total + tirx.IntImm("int64", constant) if constant else total
