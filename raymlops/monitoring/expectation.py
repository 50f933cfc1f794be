"""What a reference expects of rows to come, and how far streams of ticks are from it: at each tick the last 1, 2, 4
... 128 of them. Pure functions of counts; decides nothing."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.cells import CATEGORY_CELLS, Codes, count
from raymlops.monitoring.deviates import INDEPENDENT, Floats, Variance
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.season import BLOCKS, UTC, Dependence, Hours, Ints, Season, sum_pairs
from raymlops.monitoring.windows import SCALES, Tests, accumulate


class Window(NamedTuple):
    """Ticks together: their rows, counts (columns, 32) seen and expected, the deviate of each test (tests,), how many
    reference rows the expectation is worth (columns,), and the variance beside that of independent rows."""

    rows: float
    seen: Floats
    expected: Floats
    deviates: Floats
    reference_rows: Floats
    variance: Variance

    def without(self, part: "Window", tests: Tests) -> Floats:
        """The deviate of each test (tests,) of the rows that are not in a part of them."""
        left = max(1.0 - part.rows / max(self.rows, 1.0), 0.0)
        return tests.find(
            np.maximum(self.seen - part.seen, 0.0),
            np.maximum(self.expected - part.expected, 0.0),
            np.maximum(self.reference_rows * left, 1.0),
            self.variance,
        )


@dataclasses.dataclass(frozen=True)
class Expectation:
    """Of a reference of so many rows; without times of rows there is no season, and rows are taken as independent."""

    tests: Tests
    season: Season
    dependence: Dependence
    rows: float

    @classmethod
    def of_codes(cls, codes: Codes, tests: Tests) -> "Expectation":
        """Of independent rows."""
        return cls(tests, Season.flat(count(codes)), Dependence.none(tests), float(len(codes)))

    @classmethod
    def of_hours(cls, hours: Hours, tests: Tests, like: "Expectation | None" = None) -> "Expectation":
        """Of the hours of a reference. How strong seasons are and how much rows hang together is taken from `like`, if
        that was measured on more rows."""
        season = Season.fit(hours, like.season.shrink if like else None)
        if like is None:
            dependence = Dependence.fit(hours, season.expect(hours.rows, hours.slots), tests)
        else:
            dependence = dataclasses.replace(like.dependence, own=like.dependence.inflate_whole(hours))
        return cls(tests, season, dependence, float(hours.rows.sum()))

    @classmethod
    def of(cls, reference: Reference) -> "Expectation":
        tests = Tests.of(reference.kinds)
        if len(reference.days):
            return cls.of_hours(hours_of(reference), tests)
        return cls.of_codes(reference.codes, tests)

    @property
    def timed(self) -> bool:
        return len(self.season.shares) > 1

    def find_statistics(self, ticks: Hours, looks: int | None = None) -> Floats:
        """The largest deviate over windows of each test at the last `looks` ticks, or at all: (looks, tests)."""
        looks = len(ticks) if looks is None else min(looks, len(ticks))
        first = len(ticks) - looks  # of the ticks at which is looked
        sums = _Sums.of(self, ticks)
        best = np.full((looks, len(self.tests.names)), -np.inf)
        for scale in SCALES:
            ends = np.arange(max(first + 1, scale), len(ticks) + 1)
            if len(ends):
                found = self._find(sums, ends - scale, ends)
                np.maximum(best[looks - len(ends) :], found, out=best[looks - len(ends) :])
        return best

    def find_window(self, ticks: Hours, start: int, end: int) -> Window:
        """Of the ticks from `start` to before `end`."""
        sums = _Sums.of(self, ticks.part(slice(start, end)))
        first, last = np.array([0]), np.array([end - start])
        reference_rows, variance = self._find_variance(sums, first, last)
        return Window(
            float(sums.rows[-1]),
            sums.seen[-1],
            sums.expected[-1],
            self._find(sums, first, last)[0],
            np.broadcast_to(reference_rows, (1, sums.seen.shape[1]))[0],
            Variance(*(one[0] if isinstance(one, np.ndarray) else one for one in variance)),
        )

    def find_scales(self, ticks: Hours, end: int) -> tuple[Ints, Floats]:
        """The scales (scales,) of windows that end before a tick, and the deviates (scales, tests) of each."""
        scales = np.array([scale for scale in SCALES if scale <= end], np.int64)
        ends = np.full(len(scales), end)
        return scales, self._find(_Sums.of(self, ticks), ends - scales, ends)

    def find_inflation(self, ticks: Hours) -> Floats:
        """How much larger the variance of each test is in each tick by itself, (ticks, tests)."""
        rows = ticks.rows.astype(np.float64)
        own = np.maximum(rows - 1.0, 0.0)
        return self.dependence.inflate(np.broadcast_to(own, (len(BLOCKS), len(rows))))

    def _find(self, sums: "_Sums", starts: Ints, ends: Ints) -> Floats:
        """Deviates (windows, tests)."""
        seen, expected = sums.seen[ends] - sums.seen[starts], sums.expected[ends] - sums.expected[starts]
        return self.tests.find(seen, expected, *self._find_variance(sums, starts, ends))

    def _find_variance(self, sums: "_Sums", starts: Ints, ends: Ints) -> tuple[Floats | float, Variance]:
        """How many reference rows the expectation of each window is worth, and the variance of its tests."""
        if not self.timed:
            return self.rows, INDEPENDENT
        reference_rows = self.season.find_reference_rows(sums.slots[ends] - sums.slots[starts])
        pairs = np.stack([sum_pairs(sums.own, sums.hours // size, starts, ends) for size in BLOCKS])
        columns = [column for column, _ in self.tests.names]
        ratio = (sums.rows[ends] - sums.rows[starts])[:, None] / reference_rows[:, columns]
        inflation = (self.dependence.inflate(pairs) + ratio * self.dependence.own) / (1.0 + ratio)
        return reference_rows, Variance(inflation, self.dependence.find_freedom(pairs))


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Cumulative counts of ticks, beginning with 0."""

    seen: Floats
    expected: Floats
    rows: Floats
    slots: Floats
    """Rows in each slot of the season, (ticks + 1, slots)."""
    own: Floats
    """Rows of each tick."""
    hours: Ints

    @classmethod
    def of(cls, expectation: Expectation, ticks: Hours) -> "_Sums":
        rows = ticks.rows.astype(np.float64)
        slots = np.zeros((len(rows), len(expectation.season.rows)))
        slots[np.arange(len(rows)), ticks.slots if expectation.timed else 0] = rows
        return cls(
            accumulate(ticks.counts),
            accumulate(expectation.season.expect(ticks.rows, ticks.slots)),
            accumulate(rows),
            accumulate(slots),
            rows,
            ticks.hours,
        )


def hours_of(reference: Reference, chosen: npt.NDArray[Any] | slice = slice(None), zone: str = UTC) -> Hours:
    """The hours of a reference whose rows have a time, or of the chosen ones of its rows."""
    codes = reference.codes[chosen]
    hour = reference.days[chosen].astype(np.int64) * 24 + reference.slots[chosen] % 24
    found, places = np.unique(hour, return_inverse=True)
    columns = codes.shape[1]
    flat: npt.NDArray[Any] = codes.astype(np.int64) + np.arange(columns) * CATEGORY_CELLS
    flat += places[:, None] * (columns * CATEGORY_CELLS)
    counts = np.bincount(flat.ravel(), minlength=len(found) * columns * CATEGORY_CELLS)
    shaped = counts.reshape(len(found), columns, CATEGORY_CELLS).astype(np.float64)
    return Hours.at(shaped, np.bincount(places, minlength=len(found)), found * 3600, zone)
