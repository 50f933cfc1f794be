"""Thresholds that keep the number of false alarms that a user picks: all columns, tests, scales and looks together, by
simulating streams of reference rows.

Each simulated stream has an expectation from reference rows drawn anew: the reference is a sample, and its error stays
for as long as it is used. Where rows have a time, whole days are drawn, so that weather and schedules hang together as
they will, some for the expectation and others for the stream.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.cells import CATEGORY_CELLS, Codes, count
from raymlops.monitoring.expectation import Expectation
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.season import Hours
from raymlops.monitoring.windows import SCALES, Tests, find_statistics

Floats = npt.NDArray[np.floating[Any]]
Places = npt.NDArray[np.integer[Any]]

GAP = SCALES[-1]
"""Ticks without an excess after which a new excess is a new alarm."""
_TICKS = 2 * GAP
"""Of a simulated stream, after as many ticks as the longest window has."""
_STREAMS, _LEAST_STREAMS = 120, 12
_BUDGET = 12_000
"""Columns times streams: of wide tables fewer streams are drawn, as each has more tests that may exceed a threshold."""
_EVENTS = (8, 120)
"""Alarms in all streams between which the tail is fitted."""
_MOST_ROWS = 200
"""Rows of a simulated tick. Of larger ticks, both they and the reference are made smaller: the tests are of two
samples, so that their sizes matter as a ratio."""
_LEAST_ROWS = 400
"""Of a simulated reference."""
_UNSEEN = 0.75
"""Days that are to come go further than those of the reference, by so much over the root of their number: 5 in 100 of
240 days. Measured on days that were held out."""
_COLUMNS = 64
"""That are simulated at a time."""
_HEAVY = 1.2
"""Times the usual statistic at which a test's own tail is taken for longer than a normal one."""


@dataclasses.dataclass(frozen=True)
class Tail:
    """How often the statistic of a family exceeds a threshold: the logarithm of alarms a tick is a line in the square
    of the threshold, as of the maximum of a normal process."""

    intercept: float
    slope: float

    def find_threshold(self, rate: float) -> float:
        """For so many false alarms a tick."""
        return math.sqrt(max((self.intercept - math.log(rate)) / self.slope, 0.0))

    def find_rate(self, threshold: float) -> float:
        """False alarms a tick at a threshold."""
        return math.exp(min(self.intercept - self.slope * max(threshold, 0.0) ** 2, 0.0))


def simulate_rows(
    codes: Codes,
    tests: Tests,
    rows: float,
    streams: int,
    random: np.random.Generator,
    sources: Sequence[npt.NDArray[np.integer[Any]]] = (),
) -> list[Floats]:
    """Statistics (ticks, tests) of streams of independent reference rows, about `rows` a tick. Of several `sources`,
    places of rows, each stream is of the next one, and has as many rows as it has of all."""
    found = []
    for number in range(streams):
        pool = codes[sources[number % len(sources)]] if sources else codes
        wanted = max(rows * len(pool) / max(len(codes), 1), 0.25)
        # by as much as both samples can be made smaller
        part = max(min(1.0, _MOST_ROWS / wanted), min(1.0, _LEAST_ROWS / max(len(pool), 1)))
        size = max(round(len(pool) * part), 1)
        reference = random.integers(0, len(pool), size)
        counts = random.poisson(wanted * part, _TICKS + GAP)
        drawn = random.integers(0, len(pool), int(counts.sum()))
        found.append(_find_statistics(pool, reference, drawn, counts, tests))
    return found


def _find_statistics(codes: Codes, reference: Places, drawn: Places, rows: Places, tests: Tests) -> Floats:
    """Statistics (ticks, tests) of ticks of so many of the drawn rows each, against the rows of a reference; some
    columns at a time, since counts of all need much memory."""
    places = {name: place for place, name in enumerate(tests.names)}
    ticks = np.repeat(np.arange(len(rows)), rows)
    found = np.empty((len(rows) - GAP, len(places)))
    for first in range(0, codes.shape[1], _COLUMNS):
        block = np.arange(first, min(first + _COLUMNS, codes.shape[1]))
        kinds = ["number" if column in tests.numbers else "category" for column in block.tolist()]
        own = Tests.of(kinds)
        expected = count(codes[reference][:, block]).astype(np.float64)
        flat = codes[drawn][:, block] + (np.arange(len(block)) + ticks[:, None] * len(block)) * CATEGORY_CELLS
        counts = np.bincount(flat.ravel(), minlength=len(rows) * len(block) * CATEGORY_CELLS)
        shaped = counts.reshape(len(rows), len(block), CATEGORY_CELLS).astype(np.float64)
        chosen = [places[first + column, test] for column, test in own.names]
        found[:, chosen] = find_statistics(shaped, expected[None], own, len(reference))[GAP:]
    return found


def simulate_days(
    sources: Sequence[tuple[Hours, Expectation]], streams: int, random: np.random.Generator
) -> list[Floats]:
    """Statistics (hours, tests) of streams of whole days, each with an expectation from three quarters of the days and
    of the rest. Of several sources, each stream is of the next one, whose expectation says how much rows hang
    together."""
    found = []
    for number in range(streams):
        hours, like = sources[number % len(sources)]
        days = np.unique(hours.days)
        # days of the week as they come, so that both parts have weekends
        order = np.concatenate(
            [random.permutation(days[(days + 3) % 7 >= 5]), random.permutation(days[(days + 3) % 7 < 5])]
        )
        place = random.integers(0, 4)
        drawn = np.zeros(len(order), bool)
        drawn[place::4] = True
        expectation = Expectation.of_hours(hours.part(~np.isin(hours.days, order[drawn])), like.tests, like)
        stream = _chain_days(hours, order[drawn], _TICKS + GAP, random)
        found.append(expectation.find_statistics(stream)[GAP:])
    return found


def _chain_days(
    hours: Hours, days: npt.NDArray[np.integer[Any]], ticks: int, random: np.random.Generator
) -> Hours:
    """So many hours of days drawn from these, of the kind that the calendar asks for, one after another."""
    weekend = (days + 3) % 7 >= 5
    pools = [days[~weekend], days[weekend]]
    by_day = {int(day): np.flatnonzero(hours.days == day) for day in days}
    queues: list[list[int]] = [[], []]
    places: list[npt.NDArray[np.integer[Any]]] = []
    numbers: list[npt.NDArray[np.integer[Any]]] = []
    length, day = 0, 0
    while length < ticks:
        kind = int((day + 3) % 7 >= 5)
        if not len(pools[kind]):
            kind = 1 - kind
        if not queues[kind]:  # each day once before any is drawn again
            queues[kind] = random.permutation(pools[kind]).tolist()
        taken = by_day[queues[kind].pop()]
        places.append(taken)
        numbers.append(np.full(len(taken), day))
        length, day = length + len(taken), day + 1
    joined = hours.part(np.concatenate(places)[:ticks])
    held = np.concatenate(numbers)[:ticks]
    clock = held * 86_400 + joined.clock % 86_400
    return dataclasses.replace(joined, starts=clock, clock=clock)


def find_events(statistic: Floats, threshold: float, gap: int = GAP) -> int:
    """Alarms of one stream (ticks,): excesses that are at least `gap` ticks after the last one."""
    above = np.flatnonzero(statistic > threshold)
    return 0 if not len(above) else 1 + int((np.diff(above) > gap).sum())


def fit_tail(streams: Sequence[Floats], gap: int = GAP) -> Tail:
    """Of the statistics of a family, (ticks,) a stream: a line through the alarms at rising thresholds, weighted by
    their number."""
    ticks = sum(map(len, streams))
    peaks = np.sort(np.concatenate([_find_peaks(one, gap) for one in streams]))[::-1]
    peaks = peaks[np.isfinite(peaks)]
    most = min(_EVENTS[1], len(peaks) - 1)
    least = min(_EVENTS[0], most)
    if most < 2:
        return Tail(0.0, 0.5)
    places = np.unique(np.geomspace(least, most, 24).astype(int))
    heights = np.maximum(peaks[places], 0.0)
    counts = np.array([sum(find_events(one, height, gap) for one in streams) for height in heights], float)
    used = counts > 0
    squares, logs = heights[used] ** 2, np.log(counts[used] / ticks)
    weights = np.sqrt(counts[used])
    if len(squares) < 2 or np.ptp(squares) < 1e-9:
        return Tail(float(logs.mean() + 0.5 * squares.mean()) if len(logs) else 0.0, 0.5)
    slope, intercept = np.polyfit(squares, logs, 1, w=weights)
    return Tail(float(intercept), float(max(-slope, 0.05)))


def _find_peaks(statistic: Floats, gap: int) -> Floats:
    """The largest value of each stretch of `gap` ticks."""
    whole = len(statistic) // gap * gap
    peaks: Floats = statistic[:whole].reshape(-1, gap).max(axis=1)
    return peaks


def fit_families(streams: Sequence[Floats], families: Mapping[str, Sequence[int]]) -> dict[str, Tail]:
    """The tail of each family of tests, given by their places."""
    return {
        name: fit_tail([one[:, list(places)].max(axis=1) for one in streams])
        for name, places in families.items()
        if len(places)
    }


def find_factors(streams: Sequence[Floats]) -> Floats:
    """How much larger the variance of each test (tests,) is to be taken, so that none has a much longer tail than the
    others: of statistics (ticks, tests) of streams without a change."""
    heights = np.stack([one.max(axis=0) for one in streams])
    high = np.quantile(heights, 0.9, axis=0)
    usual = max(float(np.median(high)), 2.5)
    ratio = np.maximum(high / usual, 1.0)
    return np.where(ratio > _HEAVY, ratio**2, 1.0)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Of one reference, for ticks of about so many rows: the tail of each family, and of all segments together."""

    tails: Mapping[str, Tail]
    factors: tuple[float, ...]
    """Of the variance of each test."""
    segments: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "tails": {name: [tail.intercept, tail.slope] for name, tail in self.tails.items()},
            "factors": list(self.factors),
            "segments": self.segments,
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> "Calibration":
        tails = {name: Tail(float(a), float(b)) for name, (a, b) in held["tails"].items()}
        return cls(tails, tuple(map(float, held["factors"])), int(held["segments"]))


def choose_streams(columns: int) -> int:
    return int(min(_STREAMS, max(_LEAST_STREAMS, _BUDGET // max(columns, 1))))


def calibrate_rows(
    reference: Reference,
    rows: float,
    families: Mapping[str, Sequence[int]],
    segments: Sequence[npt.NDArray[np.integer[Any]]] = (),
    seed: int = 0,
) -> Calibration:
    """For ticks of about `rows` independent rows. `segments` are the places of the reference's rows in each."""
    random = np.random.default_rng(seed)
    tests, streams = Tests.of(reference.kinds), choose_streams(len(reference.columns))
    tails = fit_families(simulate_rows(reference.codes, tests, rows, streams, random), families)
    if segments:
        parts = simulate_rows(reference.codes, tests, rows, streams, random, segments)
        tails |= {"segments": _of_all(fit_tail([one.max(axis=1) for one in parts]), len(segments))}
    return Calibration(tails, (1.0,) * len(tests.names), len(segments))


def calibrate_hours(
    hours: Hours,
    expectation: Expectation,
    families: Mapping[str, Sequence[int]],
    segments: Sequence[tuple[Hours, Expectation]] = (),
    seed: int = 0,
) -> Calibration:
    """For ticks of an hour, of whole days."""
    random, streams = np.random.default_rng(seed), choose_streams(hours.counts.shape[1])
    found = simulate_days([(hours, expectation)], streams, random)
    parts = simulate_days(segments, streams, random) if segments else []
    factors = np.maximum(find_factors(found), find_factors(parts) if parts else 1.0)
    roots = np.sqrt(factors) / (1.0 + _UNSEEN / math.sqrt(max(len(np.unique(hours.days)), 1)))
    tails = fit_families([one / roots for one in found], families)
    if parts:
        tails |= {"segments": _of_all(fit_tail([(one / roots).max(axis=1) for one in parts]), len(segments))}
    return Calibration(tails, tuple(factors.tolist()), len(segments))


def _of_all(tail: Tail, parts: int) -> Tail:
    """Of so many parts, each of which raises alarms of its own: their rates add."""
    return Tail(tail.intercept + math.log(parts), tail.slope)
