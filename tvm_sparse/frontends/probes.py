"""Sizes at which a model with named dimensions is imported.

An import knows its sizes, and folds everything that depends on them into numbers. So a model is
imported at several sizes, the probes, and each number that differs is a formula of the sizes, see
`tvm_sparse.frontends.formulas`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Sizes = Mapping[str, int]
"""A value for each named size."""

PROBED = (
    (2, 3, 5, 4, 7, 6),
    (7, 11, 17, 13, 9, 18),
    (10, 19, 23, 8, 15, 12),
    (12, 21, 25, 14, 10, 24),
)
"""Values of the first named size at each probe, of the second, ... They are small, because tables
of a model may be short, and grow at different rates, so that one formula fits at most."""

RESTS = (1, 6, 3, 0, 5, 2)
"""What is added at each probe to sizes that are otherwise whole steps of a network's strides."""

FEW, MOST = 4, len(PROBED[0])
"""The probes that are enough for formulas of one term, and of several terms."""


def probes(names: Sequence[str], count: int = FEW) -> list[dict[str, int]]:
    """Return the sizes of some probes.

    Raises
    ------
    ValueError
        If there are more names than values for them.
    """
    if len(names) > len(PROBED):
        raise ValueError(f"a model may have up to {len(PROBED)} named sizes")
    return [{name: PROBED[i][probe] for i, name in enumerate(names)} for probe in range(count)]
