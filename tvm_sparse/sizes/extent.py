"""Sizes that are known when an inference runs, and planned for with a hint.

An `Extent` is an integer, its hint, that remembers the expression it stands for: a polynomial in
named sizes. Costs and plans compute with the hint as with any other integer. Loops ask for the
expression (`terms`).

Equality and divisibility are proofs: two extents are equal, or one divides the other, only where
this holds for all values of the named sizes. Order is a matter of the hints. So code that is
written for integers stays right: what cannot be proved counts as "not equal" and as "leaves a
remainder".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias


@dataclass(frozen=True)
class Symbol:
    """A size with a name, such as the tokens of a sequence.

    Attributes
    ----------
    name : str
        The name; one name has one hint in a network.
    hint : int
        The value that is planned for.
    """

    name: str
    hint: int

    def value(self, sizes: Mapping[str, int]) -> int:
        """Return the value in `sizes`, which has one for each name."""
        return sizes[self.name]


@dataclass(frozen=True)
class Quotient:
    """The whole quotient of two extents that no polynomial expresses.

    Attributes
    ----------
    dividend, divisor : Extent or int
        The whole quotient is ``dividend // divisor``.
    """

    dividend: Extent | int
    divisor: Extent | int

    @property
    def hint(self) -> int:
        """The value that is planned for."""
        return int(self.dividend) // int(self.divisor)

    def value(self, sizes: Mapping[str, int]) -> int:
        """Return the value for these values of the named sizes."""
        return value_of(self.dividend, sizes) // value_of(self.divisor, sizes)


LARGE = 10_007
"""A named size in `in_general`: a prime, and larger than most constants beside it."""

Factor: TypeAlias = Symbol | Quotient
Term: TypeAlias = tuple[Factor, ...]
"""A product; the empty one is 1."""


class Extent(int):
    """An integer, the hint, that remembers the expression it stands for.

    Attributes
    ----------
    terms : mapping of Term to int
        The coefficient of each product of the polynomial; none is 0.
    """

    terms: Mapping[Term, int]

    @staticmethod
    def symbol(name: str, hint: int) -> Extent:
        """Return the size called `name`, which is planned for as `hint`."""
        return Extent.of(Symbol(name, hint))

    @staticmethod
    def of(symbol: Symbol) -> Extent:
        """Return a named size as an extent."""
        return _extent({(symbol,): 1})

    def __add__(self, other: int) -> Extent:
        if not isinstance(other, int):  # with a float, for example, only the hint goes on
            return NotImplemented
        terms = dict(self.terms)
        for term, coefficient in _terms(other).items():
            terms[term] = terms.get(term, 0) + coefficient
        return _extent(terms)

    __radd__ = __add__

    def __neg__(self) -> Extent:
        return _extent({term: -coefficient for term, coefficient in self.terms.items()})

    def __sub__(self, other: int) -> Extent:
        return self + -other if isinstance(other, int) else NotImplemented

    def __rsub__(self, other: int) -> Extent:
        return -self + other if isinstance(other, int) else NotImplemented

    def __mul__(self, other: int) -> Extent:
        if not isinstance(other, int):
            return NotImplemented
        terms: dict[Term, int] = {}
        for left, a in self.terms.items():
            for right, b in _terms(other).items():
                product = tuple(sorted((*left, *right), key=repr))
                terms[product] = terms.get(product, 0) + a * b
        return _extent(terms)

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> Extent:
        return floor_divide(self, other) if isinstance(other, int) else NotImplemented

    def __rfloordiv__(self, other: int) -> Extent:
        return floor_divide(other, self) if isinstance(other, int) else NotImplemented

    def __mod__(self, other: int) -> Extent:
        return self - self // other * other if isinstance(other, int) else NotImplemented

    def __rmod__(self, other: int) -> Extent:
        return other - other // self * self if isinstance(other, int) else NotImplemented

    def __divmod__(self, other: int) -> tuple[Extent, Extent]:
        return self // other, self % other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extent) and self.terms == other.terms

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        return True  # an extent such as a remainder may be 0, but no proof says so

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __deepcopy__(self, memo: object) -> Extent:
        return self  # an extent never changes, so `dataclasses.asdict` need not copy it

    def __repr__(self) -> str:
        products = (
            "*".join([str(coefficient), *map(_name, term)])
            for term, coefficient in self.terms.items()
        )
        return f"{' + '.join(products)} ({int(self)})"


def in_general(size: int) -> int:
    """Return the value for large sizes, by which extents are put in an order without hints."""
    total = 0
    for term, coefficient in _terms(size).items():
        product = coefficient
        for factor in term:
            if isinstance(factor, Quotient):
                product *= in_general(factor.dividend) // max(in_general(factor.divisor), 1)
            else:
                product *= LARGE
        total += product
    return total


def value_of(size: int, sizes: Mapping[str, int]) -> int:
    """Return the value of a size for these values of the named ones.

    Raises
    ------
    KeyError
        If `sizes` lacks a name that the size depends on.
    """
    total = 0
    for term, coefficient in _terms(size).items():
        product = coefficient
        for factor in term:
            product *= factor.value(sizes)
        total += product
    return total


def floor_divide(dividend: int, divisor: int) -> Extent:
    """Return the whole quotient: a polynomial where `divisor` divides for all sizes.

    What a number divides is taken out of a sum: ``(16 h + 1) // 2`` is ``8 h``, and
    ``(h - 8) // 8 + 1`` is ``h // 8``.

    Raises
    ------
    ZeroDivisionError
        If the hint of `divisor` is 0.
    """
    exact = _divided(_terms(dividend), _terms(divisor))
    if exact is not None:
        return _extent(exact)
    if int(divisor) == 0:
        raise ZeroDivisionError(f"{dividend!r} // {divisor!r}")
    if isinstance(divisor, Extent):
        return _extent({(Quotient(dividend, divisor),): 1})
    whole, left = dict[Term, int](), dict[Term, int]()
    for term, count in _terms(dividend).items():
        if term and count % divisor:
            left[term] = count
        elif term:
            whole[term] = count // divisor
    number = _terms(dividend).get((), 0)
    whole[()] = number // divisor
    if not left:
        return _extent(whole)
    rest = Quotient(_extent({**left, (): number % divisor}), divisor)
    return _extent({(rest,): 1}) + _extent(whole)


def _extent(terms: Mapping[Term, int]) -> Extent:
    """Return an extent; a constant becomes a plain integer, which is its own expression."""
    terms = {term: coefficient for term, coefficient in terms.items() if coefficient}
    hint = 0
    for term, coefficient in terms.items():
        product = coefficient
        for factor in term:
            product *= factor.hint
        hint += product
    if set(terms) <= {()}:
        return hint  # type: ignore[return-value]
    extent = int.__new__(Extent, hint)
    extent.terms = terms
    return extent


def _terms(size: int) -> Mapping[Term, int]:
    return size.terms if isinstance(size, Extent) else {(): int(size)}


def _divided(dividend: Mapping[Term, int], divisor: Mapping[Term, int]) -> dict[Term, int] | None:
    """Return the terms of the quotient if `divisor` provably divides, else None.

    It is the division of polynomials: the first term of the divisor divides the first one of what
    is left, in an order that products keep.
    """
    if not divisor or 0 in divisor.values():
        return None
    names = sorted({factor for term in (*dividend, *divisor) for factor in term}, key=repr)

    def order(term: Term) -> tuple[int, ...]:
        return len(term), *(term.count(name) for name in names)

    first, quotient = max(divisor, key=order), dict[Term, int]()
    left = {term: count for term, count in dividend.items() if count}
    while left:
        term = max(left, key=order)
        ratio, rest = Fraction(left[term], divisor[first]), _without(term, first)
        if ratio.denominator != 1 or rest is None:
            return None
        quotient[rest] = ratio.numerator
        for factors, coefficient in divisor.items():
            product = tuple(sorted((*rest, *factors), key=repr))
            total = left.get(product, 0) - ratio.numerator * coefficient
            left[product] = total
            if not total:
                del left[product]
    return quotient


def _without(term: Term, factors: Term) -> Term | None:
    """Return a product without some factors; None if it lacks one of them."""
    left = list(term)
    for factor in factors:
        if factor not in left:
            return None
        left.remove(factor)
    return tuple(left)


def _name(factor: Factor) -> str:
    if isinstance(factor, Symbol):
        return factor.name
    return f"({factor.dividend!r} // {factor.divisor!r})"
