"""Windows over ticks: at each tick the statistics of the last 1, 2, 4 ... 128 of them, so that large faults are seen at
once and small ones when the rows suffice."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.monitoring import deviates
from raymlops.monitoring.cells import CATEGORY_CELLS
from raymlops.monitoring.deviates import INDEPENDENT, Variance

Floats = npt.NDArray[np.floating[Any]]

SCALES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclasses.dataclass(frozen=True)
class Tests:
    """Which columns (places among all) are numbers and which categories, and the tests of all of them in order: those
    of numbers column by column, then those of categories. `factors` is how much larger the variance of each is in
    reality than among independent rows, 1 where it is not known; (tests,)."""

    numbers: tuple[int, ...]
    categories: tuple[int, ...]
    factors: Floats

    @classmethod
    def of(cls, kinds: Sequence[str]) -> "Tests":
        """Of columns of these kinds, `number` or `category`."""
        numbers = tuple(place for place, kind in enumerate(kinds) if kind == "number")
        categories = tuple(place for place, kind in enumerate(kinds) if kind != "number")
        size = len(numbers) * len(deviates.NUMBER_TESTS) + len(categories) * len(deviates.CATEGORY_TESTS)
        return cls(numbers, categories, np.ones(size))

    @property
    def names(self) -> tuple[tuple[int, str], ...]:
        """The column and the test of each."""
        found = [(place, test) for place in self.numbers for test in deviates.NUMBER_TESTS]
        return (*found, *((place, test) for place in self.categories for test in deviates.CATEGORY_TESTS))

    def find(
        self,
        observed: Floats,
        expected: Floats,
        reference_rows: Floats | float,
        variance: Variance = INDEPENDENT,
    ) -> Floats:
        """Deviates (..., tests) of counts (..., columns, 32); expected counts are taken in proportion. The reference
        has so many rows, or so many for each column (..., columns). Of `variance`, the inflation is (..., tests), and
        the freedom (..., columns)."""
        shape = observed.shape[:-2]
        rows, freedom = (
            np.broadcast_to(one, observed.shape[:-1]) for one in (reference_rows, variance.freedom)
        )
        inflation = np.broadcast_to(variance.inflation, (*shape, len(self.factors)))
        parts, first = [], 0
        for places, names, test in (
            (self.numbers, deviates.NUMBER_TESTS, deviates.test_numbers),
            (self.categories, deviates.CATEGORY_TESTS, deviates.test_categories),
        ):
            if places:
                last, chosen = first + len(places) * len(names), list(places)
                own = inflation[..., first:last].reshape((*shape, len(places), len(names)))
                found = test(
                    observed[..., chosen, :],
                    expected[..., chosen, :],
                    rows[..., chosen],
                    Variance(own, freedom[..., chosen]),
                )
                parts.append(found.reshape((*shape, -1)))
                first = last
        if not parts:
            return np.zeros((*shape, 0))
        return np.concatenate(parts, axis=-1) / np.sqrt(self.factors)


def sum_windows(cumulative: Floats, scale: int) -> Floats:
    """Counts of the last `scale` ticks at each tick from the first whole window on: (ticks - scale + 1, ...), of
    cumulative counts (ticks + 1, ...) that begin with 0."""
    return cumulative[scale:] - cumulative[:-scale]


def accumulate(ticks: Floats) -> Floats:
    """Cumulative counts, beginning with 0."""
    return np.concatenate([np.zeros((1, *ticks.shape[1:])), np.cumsum(ticks, axis=0)])


def find_statistics(observed: Floats, expected: Floats, tests: Tests, reference_rows: float) -> Floats:
    """The largest deviate over scales of each test at each tick: (ticks, tests), of counts (ticks, columns, 32) of
    independent rows. Expected counts are taken in proportion: those of one tick are for all."""
    assert observed.shape[-1] == CATEGORY_CELLS
    one = len(expected) == 1
    seen, wanted = accumulate(observed), expected if one else accumulate(expected)
    best = np.full((len(observed), len(tests.factors)), -np.inf)
    for scale in SCALES:
        if scale > len(observed):
            break
        usual = wanted if one else sum_windows(wanted, scale)
        found = tests.find(sum_windows(seen, scale), usual, reference_rows)
        np.maximum(best[scale - 1 :], found, out=best[scale - 1 :])
    return best
