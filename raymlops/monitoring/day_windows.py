"""Windows of rows whose times are not known, of a model whose rows hang together in a day, as by its weather: how much
larger the variance of each test is than among independent rows, and windows without a change. Decides nothing.

A reference is a sample: its days have fewer rows than those of the data, so that how much alike two rows of a day are
is what is measured, and a day of any size follows from it.
"""

import dataclasses

import numpy as np

from raymlops.monitoring.cells import CATEGORY_CELLS
from raymlops.monitoring.deviates import Floats, Variance
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.season import BLOCKS, Dependence, Hours, Ints
from raymlops.monitoring.windows import Tests

_DAY_S = 86_400
_MOST_DAYS = 0.25
"""Of the reference's days, the part that a simulated window may have; the expectation is of the others."""


@dataclasses.dataclass(frozen=True)
class DayWindows:
    """`counts` (days, columns, 32) and `rows` (days,) are of the days of a reference."""

    tests: Tests
    counts: Floats
    rows: Ints
    dependence: Dependence
    rows_a_day: float
    """Of the data of which the reference is a sample."""

    @classmethod
    def of(cls, reference: Reference) -> "DayWindows | None":
        """None if its rows have no times of different days."""
        days, places = np.unique(reference.days, return_inverse=True)
        if len(days) < 2:
            return None
        columns = len(reference.columns)
        flat = reference.codes.astype(np.int64) + np.arange(columns) * CATEGORY_CELLS
        flat += places[:, None] * (columns * CATEGORY_CELLS)
        counts = np.bincount(flat.ravel(), minlength=len(days) * columns * CATEGORY_CELLS)
        shaped = counts.reshape(len(days), columns, CATEGORY_CELLS).astype(np.float64)
        rows = np.bincount(places, minlength=len(days))
        tests = Tests.of(reference.kinds)
        # each day is one tick: rows of a day are alike or not, whatever their hours
        ticks = Hours.at(shaped, rows, days.astype(np.int64) * _DAY_S)
        expected = shaped.sum(axis=0) / rows.sum() * rows[:, None, None]
        dependence = Dependence.fit(ticks, expected, tests)
        return cls(tests, shaped, rows, dependence, max(reference.rows, rows.sum()) / len(days))

    def find_variance(self, rows: float) -> Variance:
        """Of a window of so many rows: of one day, or of as many days as usually have them."""
        days = max(rows / self.rows_a_day, 1.0)
        return self._find_variance(rows, rows / days - 1.0)

    def _find_variance(self, rows: float, others: float) -> Variance:
        """Of rows that each have so many others of their day."""
        pairs = np.full((len(BLOCKS), 1), max(others, 0.0))
        ratio = rows / self.rows.sum()
        inflation = (self.dependence.inflate(pairs)[0] + ratio * self.dependence.own) / (1.0 + ratio)
        return Variance(inflation, self.dependence.find_freedom(pairs)[0])

    def simulate_maxima(self, rows: float, windows: int, random: np.random.Generator) -> Floats:
        """The largest deviate of each of so many windows without a change, of about so many rows of the data: whole
        days, against others of the days."""
        held = len(self.rows)
        most = max(int(_MOST_DAYS * held), 1)
        days = min(max(round(rows / self.rows_a_day), 1), most)
        found = np.empty(windows)
        for window in range(windows):
            order = random.permutation(held)
            own, rest = order[:days], random.choice(order[days:], held)
            seen, usual = self.rows[own], self.rows[rest].sum()
            expected = self.counts[rest].sum(axis=0) / usual * seen.sum()
            variance = self._find_variance(float(seen.sum()), float((seen**2).sum() / seen.sum() - 1.0))
            deviates = self.tests.find(self.counts[own].sum(axis=0), expected, float(usual), variance)
            found[window] = deviates.max()
        return found
