"""Thresholds that keep the number of false alarms that a user picks: all columns, tests, scales and looks together, by
simulating streams of reference rows.

Each simulated stream has an expectation from reference rows drawn anew: the reference is a sample, and its error stays
for as long as it is used. Where rows have a time, whole days are drawn, so that weather and schedules hang together as
they will.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.cells import Codes, count
from raymlops.monitoring.windows import SCALES, Tests, find_statistics

Floats = npt.NDArray[np.floating[Any]]

GAP = SCALES[-1]
"""Ticks without an excess after which a new excess is a new alarm."""
_TICKS = 3 * GAP
"""Of a simulated stream, after as many ticks as the longest window has."""
_EVENTS = (8, 120)
"""Alarms in all streams between which the tail is fitted."""


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
        return math.exp(self.intercept - self.slope * threshold * threshold)


def simulate_rows(
    codes: Codes, tests: Tests, rows: int, streams: int, random: np.random.Generator
) -> list[Floats]:
    """Statistics (ticks, tests) of streams of independent reference rows, `rows` a tick."""
    found = []
    for _ in range(streams):
        drawn = random.integers(0, len(codes), len(codes))
        expected = count(codes[drawn]) / len(codes)
        ticks = np.stack(
            [count(codes[random.integers(0, len(codes), rows)]) for _ in range(_TICKS + GAP)]
        ).astype(np.float64)
        wanted = np.broadcast_to(expected * rows, ticks.shape)
        found.append(find_statistics(ticks, wanted, tests, len(codes))[GAP:])
    return found


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
    if np.ptp(squares) < 1e-9:
        return Tail(float(logs.mean() + 0.5 * squares.mean()), 0.5)
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
