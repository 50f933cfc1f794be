"""What rows of a certain time are expected to be, and how much rows of one hour and one day hang together: measured on
the hours of a reference. Pure functions of counts.

Correlations are those of pairs of rows of a unit (an hour, a day, a part of the week): the sum over pairs is the square
of the sum less the sum of squares, so counts suffice, and units of few rows add noise but no bias (Searle, Casella,
McCulloch, Variance Components, 1992).
"""

import dataclasses
import datetime
import math
import zoneinfo
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.cells import ABOVE, BELOW, CATEGORY_CELLS, MISSING, NEW, NUMBER_CELLS
from raymlops.monitoring.deviates import Floats, find_scores
from raymlops.monitoring.windows import Tests, accumulate

Ints = npt.NDArray[np.integer[Any]]

SLOTS = 48
"""Hours of working days, then hours of weekends."""
UTC = "UTC"
_WHOLE = 1e9
"""Rows of the whole reference that stand for a slot of a column without a season."""
_RARE = 0.01
"""Cells with a smaller share say nothing of how much rows hang together."""
_MIN_DAYS = 8
_UNKNOWN = 0.25
"""Standard errors that are added to a correlation: one too small to be seen in the reference matters where there is
much more traffic."""
BLOCKS = (1, 2, 6, 24)
"""Hours of blocks, each of which is a part of the next."""


@dataclasses.dataclass(frozen=True)
class Hours:
    """Counts (ticks, columns, 32) of consecutive ticks, of an hour or less, with their rows and starts (ticks,), in
    seconds since 1970, UTC. Those without rows are absent. `clock` has the starts as the clock of a time zone shows
    them, by which hours and days are told."""

    counts: Floats
    rows: Ints
    starts: Ints
    clock: Ints

    @classmethod
    def at(cls, counts: Floats, rows: Ints, starts: Ints, zone: str = UTC) -> "Hours":
        return cls(counts, rows, starts, to_clock(starts, zone))

    @property
    def hours(self) -> Ints:
        """Since 1970."""
        return self.clock // 3600

    @property
    def days(self) -> Ints:
        return self.clock // 86_400

    @property
    def slots(self) -> Ints:
        return find_slots(self.hours)

    def part(self, places: npt.NDArray[Any] | slice) -> "Hours":
        return Hours(self.counts[places], self.rows[places], self.starts[places], self.clock[places])

    def __len__(self) -> int:
        return len(self.rows)


def to_clock(starts: Ints, zone: str) -> Ints:
    """Seconds since 1970, UTC, as seconds by the clock of a zone such as America/New_York, summer time included."""
    if zone == UTC:
        return starts
    clock = zoneinfo.ZoneInfo(zone)
    hours, places = np.unique(starts // 3600, return_inverse=True)
    offsets = [
        datetime.datetime.fromtimestamp(hour * 3600, clock).utcoffset() or datetime.timedelta()
        for hour in hours.tolist()
    ]
    found: Ints = starts + np.array([round(one.total_seconds()) for one in offsets], np.int64)[places]
    return found


def find_slots(hours: Ints) -> Ints:
    """The part of the week of hours since 1970; day 0 was a Thursday."""
    return hours % 24 + 24 * ((hours // 24 + 3) % 7 >= 5)


@dataclasses.dataclass(frozen=True)
class Season:
    """`shares` (slots, columns, 32) of rows by part of the week, each of so many `rows` (slots,); one slot where there
    is no season. `shrink` (columns,) are the rows of the whole reference that were added to those of each slot."""

    shares: Floats
    rows: Floats
    shrink: Floats

    @classmethod
    def flat(cls, counts: Floats) -> "Season":
        """Of counts (columns, 32)."""
        rows = float(counts[:1].sum())
        return cls((counts / max(rows, 1.0))[None], np.array([rows]), np.full(len(counts), _WHOLE))

    @classmethod
    def fit(cls, hours: Hours, shrink: Floats | None = None) -> "Season":
        """A slot's rows count for as much as they differ from those of other slots, column by column (the credibility
        of Bühlmann, 1967), unless it is known how much from more rows."""
        columns = hours.counts.shape[1]
        whole = hours.counts.sum(axis=0) / max(float(hours.rows.sum()), 1.0)
        counts, rows = np.zeros((SLOTS, columns, CATEGORY_CELLS)), np.zeros(SLOTS)
        np.add.at(counts, hours.slots, hours.counts)
        np.add.at(rows, hours.slots, hours.rows)
        if shrink is None:
            shrink = _find_shrink(hours, whole, counts, rows)
        added = shrink[:, None]
        return cls((counts + added * whole) / (rows[:, None, None] + added), rows, shrink)

    def expect(self, rows: Ints, slots: Ints) -> Floats:
        """Expected counts (ticks, columns, 32) of ticks with so many rows."""
        found: Floats = (
            self.shares[slots if len(self.shares) > 1 else np.zeros_like(slots)] * rows[:, None, None]
        )
        return found

    def find_reference_rows(self, rows: Floats) -> Floats:
        """Of how many independent reference rows an expectation has the error, (windows, columns), for windows with so
        many rows in each slot (windows, slots): of a column without a season all, else those of the slots."""
        held = max(float(self.rows.sum()), 1.0)
        if len(self.rows) == 1:
            return np.full((len(rows), len(self.shrink)), held)
        parts = rows / np.maximum(rows.sum(axis=-1, keepdims=True), 1.0)
        # what is not known of a slot: its rows, and as many of the whole as say as much of it
        found: Floats = 1.0 / (parts**2 @ (1.0 / (self.rows[:, None] + self.shrink)) + 1.0 / held)
        return found


def _find_shrink(hours: Hours, whole: Floats, counts: Floats, rows: Floats) -> Floats:
    """Rows of the whole that are added to a slot: a part of (1 - r) / r for rows of the same slot, but of different
    hours, that correlate by r."""
    pairs = float((rows**2).sum() - (hours.rows.astype(np.float64) ** 2).sum())
    if pairs <= 0:
        return np.full(len(whole), _WHOLE)
    sums = ((counts - whole * rows[:, None, None]) ** 2).sum(axis=(0, 2))
    sums -= ((hours.counts - whole * hours.rows[:, None, None]) ** 2).sum(axis=(0, 2))
    variance = (whole * (1.0 - whole)).sum(axis=1)
    correlation = np.clip(sums / pairs / np.maximum(variance, 1e-9), 1.0 / _WHOLE, 1.0 - 1e-9)
    # a few slots, such as those of the night, differ by more than the others: less is added than is best on average
    found: Floats = (1.0 - correlation) / correlation / 4.0
    return found


@dataclasses.dataclass(frozen=True)
class Dependence:
    """How much rows are alike that are near in time. `correlations` (blocks, tests) are those of two rows of the same
    block of 1, 2, 6 and 24 hours that are not in the same smaller one; of the shape, on average over its freedom.
    `squares` (blocks, columns) are its mean square: large if few combinations of cells are concerned. `own` (tests,) is
    the variance of the reference itself beside that of independent rows."""

    correlations: Floats
    squares: Floats
    own: Floats
    shapes: Ints
    """The place of the test of the shape of each column, (columns,)."""

    @classmethod
    def none(cls, tests: Tests) -> "Dependence":
        shapes = np.array([place for place, (_, name) in enumerate(tests.names) if name == "shape"], np.int64)
        columns = np.array([column for column, name in tests.names if name == "shape"], np.int64)
        return cls(
            np.zeros((len(BLOCKS), len(tests.names))),
            np.zeros((len(BLOCKS), len(shapes))),
            np.ones(len(tests.names)),
            shapes[np.argsort(columns)],
        )

    @classmethod
    def fit(cls, hours: Hours, expected: Floats, tests: Tests) -> "Dependence":
        """Of the hours of a reference and what the season expects of them, (hours, columns, 32)."""
        held = cls.none(tests)
        if len(np.unique(hours.days)) < _MIN_DAYS:
            return held
        blocks = [np.unique(hours.hours // size, return_inverse=True)[1] for size in BLOCKS]
        by_column: dict[int, list[tuple[int, str]]] = {}
        for number, (column, name) in enumerate(tests.names):
            by_column.setdefault(column, []).append((number, name))
        for column, listed in by_column.items():
            numbers = [number for number, _ in listed]
            held.correlations[:, numbers], held.squares[:, column] = _correlate(
                hours.counts[:, column],
                expected[:, column],
                blocks,
                [name for _, name in listed],
                column in tests.numbers,
            )
        return dataclasses.replace(held, own=held.inflate_whole(hours))

    def inflate(self, pairs: Floats) -> Floats:
        """The variance (windows, tests) beside that of independent rows, of windows in which a row has so many others
        of its block, (blocks, windows)."""
        found: Floats = 1.0 + np.einsum("bw,bt->wt", np.diff(pairs, axis=0, prepend=0.0), self.correlations)
        return found

    def find_freedom(self, pairs: Floats) -> Floats:
        """The share of the freedom of each column's shape (windows, columns) that the dependence leaves."""
        beyond = np.diff(pairs, axis=0, prepend=0.0)
        mean = np.einsum("bw,bc->wc", beyond, self.correlations[:, self.shapes])
        # the mean square of the variances of combinations; at most, as if all blocks moved the same ones
        root = np.einsum("bw,bc->wc", beyond, np.sqrt(self.squares))
        found: Floats = (1.0 + mean) ** 2 / (1.0 + 2.0 * mean + np.maximum(root, mean) ** 2)
        return found

    def inflate_whole(self, hours: Hours) -> Floats:
        """Of all of these hours together."""
        rows, total = hours.rows.astype(np.float64), max(float(hours.rows.sum()), 1.0)
        pairs = []
        for size in BLOCKS:
            _, places = np.unique(hours.hours // size, return_inverse=True)
            pairs.append(float((np.bincount(places, rows) ** 2).sum()) / total - 1.0)
        found: Floats = self.inflate(np.array(pairs)[:, None])[0]
        return found


def _correlate(
    counts: Floats, expected: Floats, blocks: Sequence[Ints], names: Sequence[str], number: bool
) -> tuple[Floats, Floats]:
    """Of one column's counts and expected counts (hours, 32) and the number of the block of each hour: the correlation
    of rows of each block for each test, (blocks, tests), and the mean squares of the shape, (blocks,)."""
    rows = counts.sum(axis=1)
    whole = expected.sum(axis=0) / max(rows.sum(), 1.0)
    shares = expected / np.maximum(expected.sum(axis=1, keepdims=True), 1e-12)
    used = np.flatnonzero((whole > _RARE) & (np.arange(len(whole)) != MISSING))
    linear, freedom = len(names) - 1, max(len(used) - 1, 1)
    scores = np.concatenate([_list_scores(shares, names, number), _score_cells(shares, used)], axis=2)
    means = np.einsum("hc,hcs->hs", shares, scores)
    sums = np.einsum("hc,hcs->hs", counts, scores) - means * rows[:, None]
    centred = scores - means[:, None, :]
    # sums of products within rows, then within ever larger blocks: their differences are those of pairs of rows
    inner = np.einsum("hc,hcs,hct->st", counts, centred, centred, optimize=True)
    variance = np.einsum("hc,hcs,hcs->s", expected, centred, centred, optimize=True)[:linear] / max(
        rows.sum(), 1.0
    )
    inner_pairs = rows.sum()
    correlations, squares = np.zeros((len(blocks), len(names))), np.zeros(len(blocks))
    for place, block in enumerate(blocks):
        added = np.zeros((block.max(initial=0) + 1, sums.shape[1]))
        np.add.at(added, block, sums)
        products, pairs = added.T @ added, (np.bincount(block, rows) ** 2).sum()
        count = max(float(pairs - inner_pairs), 1.0)
        covariance, error = (products - inner) / count, math.sqrt(2.0 / max(count, 2.0))
        own = np.where(variance > 1e-9, np.diag(covariance)[:linear] / np.maximum(variance, 1e-9), 0.0)
        shape = covariance[linear:, linear:]
        mean = float(np.trace(shape)) / freedom
        found = np.clip(np.maximum(np.append(own, mean), 0.0) + _UNKNOWN * error, 0.0, 1.0)
        correlations[place] = _spread_to_rare(found, names, variance)
        squares[place] = max(float((shape**2).sum()) / freedom - freedom * error**2, mean**2)
        inner, inner_pairs = products, pairs
    return correlations, squares


def _spread_to_rare(correlations: Floats, names: Sequence[str], variance: Floats) -> Floats:
    """Of tests of cells that the reference hardly has, the dependence cannot be measured: that of the column's other
    tests is taken, as a day with the highest pressure of the year has it in all of its rows. The spread of an hour
    that has few cells says little of that of several: it has at least what the shape has."""
    found = correlations.copy()
    if "spread" in names:
        place = names.index("spread")
        found[place] = max(found[place], found[-1])
    own = ("below", "above", "new")
    largest = max((one for one, name in zip(found, names, strict=True) if name not in own), default=0.0)
    rare = np.array([name in own for name in names])
    rare[:-1] &= variance < 1e-3
    found[rare] = largest
    return found


def _list_scores(shares: Floats, names: Sequence[str], number: bool) -> Floats:
    """What each test but the shape gives the cells, (hours, 32, tests - 1); ranks are those among the rows that are
    expected in the hour."""
    found = np.zeros((*shares.shape, len(names) - 1))
    cells = {"missing": MISSING, "below": BELOW, "above": ABOVE, "new": NEW}
    if number:
        present = shares[:, 1:NUMBER_CELLS]
        ranks = find_scores(present / np.maximum(present.sum(axis=1, keepdims=True), 1e-12))
        for name, scores in zip(("shift", "spread"), ranks, strict=True):
            found[:, 1:NUMBER_CELLS, names.index(name)] = scores
    for place, name in enumerate(names[:-1]):
        if name in cells:
            found[:, cells[name], place] = 1.0
    return found


def _score_cells(shares: Floats, used: Ints) -> Floats:
    """What the test of the shape gives the cells that are used, (hours, 32, used)."""
    found = np.zeros((*shares.shape, len(used)))
    places = np.arange(len(used))
    found[:, used, places] = 1.0 / np.sqrt(np.maximum(shares[:, used], _RARE))
    return found


def sum_pairs(rows: Floats, units: Ints, starts: Ints, ends: Ints) -> Floats:
    """How many other rows of its unit (an hour, a day) a row has within its window, on average; of ticks with `rows`
    and `units` (ticks,), for windows of the ticks from `starts` to before `ends`, (windows,)."""
    total = accumulate(rows)
    first = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]]))
    place = np.cumsum(np.concatenate([[True], units[1:] != units[:-1]])) - 1
    begin, after = first[place], np.append(first[1:], len(rows))[place]
    before = total[:-1] - total[begin]  # rows of the unit before each tick
    squares = accumulate(rows**2 + 2.0 * rows * before)
    whole = total[ends] - total[starts]
    # the first unit may have begun before the window: pairs with those rows do not count
    inner = total[np.minimum(ends, after[starts])] - total[starts]
    found = squares[ends] - squares[starts] - 2.0 * inner * before[starts]
    others: Floats = np.maximum(found / np.maximum(whole, 1.0) - 1.0, 0.0)
    return others
