"""Sizes of tensors that are known only as terms: integer x powers of symbols, among them the number of rows.

Exact; what cannot be decided for every value of the symbols raises UndecidedError.
"""

import dataclasses
import functools
from collections.abc import Sequence

ROWS_SYMBOL = "n"
"""The number of rows of a run."""


class UndecidedError(Exception):
    """The answer depends on the values of the symbols."""


@functools.total_ordering
@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """`coefficient` x the product of the symbols to their powers; every symbol is an integer of 0 or more."""

    coefficient: int
    powers: tuple[tuple[str, int], ...]
    """Sorted by symbol, no power below 1; never empty, since that is an `int`."""

    @property
    def counts_rows(self) -> bool:
        return any(symbol == ROWS_SYMBOL for symbol, _ in self.powers)

    def __str__(self) -> str:
        factors = [f"{symbol}^{power}" if power > 1 else symbol for symbol, power in self.powers]
        return "*".join([str(self.coefficient), *factors] if self.coefficient != 1 else factors)

    def __hash__(self) -> int:
        return hash((self.coefficient, self.powers))

    @property
    def _is_a_size(self) -> bool:
        """True if it cannot be negative; a difference that has a name may be negative."""
        return self.coefficient > 0 and not any(name.startswith("(") for name, _ in self.powers)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Term) and same(self, other):
            return True
        if isinstance(other, int) and other < 0 and self._is_a_size:
            return False
        raise UndecidedError

    def __lt__(self, other: object) -> bool:
        if isinstance(other, int) and other <= 0 and self._is_a_size:
            return False
        raise UndecidedError

    def __mul__(self, other: "Dim") -> "Dim":
        return multiply([self, other])

    __rmul__ = __mul__

    def __neg__(self) -> "Dim":
        return _term(-self.coefficient, dict(self.powers))

    def __add__(self, other: "Dim") -> "Dim":
        if isinstance(other, Term):
            if self.powers == other.powers:
                return _term(self.coefficient + other.coefficient, dict(self.powers))
            return _opaque("+", self, other)
        return self if other == 0 else _opaque("+", self, int(other))

    __radd__ = __add__

    def __sub__(self, other: "Dim") -> "Dim":
        return self + -other

    def __rsub__(self, other: "Dim") -> "Dim":
        return -self + other

    def __floordiv__(self, other: "Dim") -> "Dim":
        try:
            return divide(self, other)
        except UndecidedError:
            return _opaque("//", self, other)

    def __rfloordiv__(self, other: "Dim") -> "Dim":
        return _opaque("//", other, self)

    def __mod__(self, other: "Dim") -> "Dim":
        divide(self, other)
        return 0


Dim = int | Term


def symbol(name: str) -> Term:
    return Term(1, ((name, 1),))


ROWS = symbol(ROWS_SYMBOL)


def counts_rows(dim: object) -> bool:
    """True if the size changes with the number of rows."""
    return isinstance(dim, Term) and dim.counts_rows


def same(first: Dim, second: Dim) -> bool:
    """True if the two are equal for all values of the symbols."""
    if isinstance(first, Term) and isinstance(second, Term):
        return (first.coefficient, first.powers) == (second.coefficient, second.powers)
    return not isinstance(first, Term) and not isinstance(second, Term) and first == second


def multiply(factors: Sequence[Dim]) -> Dim:
    coefficient, powers = 1, dict[str, int]()
    for factor in factors:
        if isinstance(factor, Term):
            coefficient *= factor.coefficient
            for name, power in factor.powers:
                powers[name] = powers.get(name, 0) + power
        else:
            coefficient *= int(factor)
    return _term(coefficient, powers)


def divide(dividend: Dim, divisor: Dim) -> Dim:
    """The quotient, if there is no remainder for any values of the symbols. Raises UndecidedError."""
    top, above = _parts(dividend)
    bottom, below = _parts(divisor)
    if bottom == 0 or top % bottom:
        raise UndecidedError
    powers = dict(above)
    for name, power in below.items():
        powers[name] = powers.get(name, 0) - power
    if any(power < 0 for power in powers.values()):
        raise UndecidedError
    return _term(top // bottom, powers)


def _parts(dim: Dim) -> tuple[int, dict[str, int]]:
    return (dim.coefficient, dict(dim.powers)) if isinstance(dim, Term) else (int(dim), {})


def _term(coefficient: int, powers: dict[str, int]) -> Dim:
    kept = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Term(coefficient, kept) if kept and coefficient else coefficient


def _opaque(operation: str, first: Dim, second: Dim) -> Term:
    """A size that is not a product, under its own name: equal names are equal sizes.

    Raises UndecidedError if it depends on the number of rows, which a name must not hide.
    """
    if counts_rows(first) or counts_rows(second):
        raise UndecidedError
    return symbol(f"({first}{operation}{second})")
