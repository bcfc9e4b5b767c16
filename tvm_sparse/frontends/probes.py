"""Sizes at which a model with named dimensions is imported, and formulas of what differs.

An import knows its sizes, and folds everything that depends on them into numbers. So a model is
imported at several sizes, the probes, and each number that differs is a formula of the sizes. A
formula has fewer coefficients than there are probes; the other probes test it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import tirx

Sizes = Mapping[str, int]
"""A value for each named size."""

PROBED = ((2, 3, 5, 4), (7, 11, 17, 13), (10, 19, 23, 8), (12, 21, 25, 14))
"""Values of the first named size at each probe, of the second, ... They are small, because tables
of a model may be short, and grow at different rates, so that one formula fits at most."""


def probes(names: Sequence[str]) -> list[dict[str, int]]:
    """Return the sizes of every probe.

    Raises
    ------
    ValueError
        If there are more names than values for them.
    """
    if len(names) > len(PROBED):
        raise ValueError(f"a model may have up to {len(PROBED)} named sizes")
    return [
        {name: PROBED[i][probe] for i, name in enumerate(names)} for probe in range(len(PROBED[0]))
    ]


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
        of two sizes.
    """
    values = [int(value) for value in values]
    if len(set(values)) == 1:
        return values[0]
    for names in _products(variables):
        sizes = [int(np.prod([sizes[name] for name in names])) for sizes in at]
        factor, rest = divmod(values[1] - values[0], sizes[1] - sizes[0])
        constant = values[0] - factor * sizes[0]
        if rest or any(factor * s + constant != v for s, v in zip(sizes, values, strict=True)):
            continue
        product = variables[names[0]]
        for name in names[1:]:
            product = product * variables[name]
        if factor != 1:
            product = product * tirx.IntImm("int64", factor)
        return product + tirx.IntImm("int64", constant) if constant else product
    return None


def _products(names: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for count in (1, 2):
        yield from itertools.combinations_with_replacement(names, count)
