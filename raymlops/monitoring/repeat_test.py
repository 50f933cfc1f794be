"""Repeated rows: how many rows of a tick repeat another, from the bits that are set in its map of hashes, against the
ticks before. A model of few columns has equal rows by nature, so what is usual is learned."""

import dataclasses
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.deviates import Floats
from raymlops.monitoring.judgement import Trend
from raymlops.monitoring.recent_counts import RepeatCounts
from raymlops.monitoring.ticks import REPEAT_BITS
from raymlops.monitoring.windows import SCALES, accumulate

LEAST_HISTORY = 64
"""Ticks before repeats are judged."""
_FULLEST = 0.98
"""Share of the bits from which they say too little of the rows."""
_HOUR_S = 3600
_CHANCE = 3.0


class RepeatExcess(NamedTuple):
    """The window in which repeats exceed by most: its ticks, and shares of rows that repeat another."""

    first: int
    last: int
    deviate: float
    share: float
    usual: float
    rows: int


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Of ticks (ticks,): rows that repeat another, how many are expected, and the variance of the difference."""

    rows: Floats
    repeats: Floats
    expected: Floats
    variance: Floats


def measure(counts: RepeatCounts) -> Repeats:
    """Ticks whose map is nearly full are left out, as without rows. Expected are as many of all pairs of rows as in the
    ticks before (the middle of them, so that a burst does not become usual at once)."""
    rows, set_bits = counts.rows.astype(np.float64), counts.bits.astype(np.float64)
    known = set_bits < _FULLEST * REPEAT_BITS
    rows = np.where(known, rows, 0.0)
    free = np.maximum(REPEAT_BITS - set_bits, 1.0)
    different = np.where(known, REPEAT_BITS * np.log(REPEAT_BITS / free), 0.0)
    load = np.minimum(different / REPEAT_BITS, 20.0)
    repeats = rows - different  # may be below 0 by chance
    pairs = rows * np.maximum(rows - 1.0, 0.0) / 2.0
    # linear counting (Whang et al., 1990) misses by so much
    error = REPEAT_BITS * (np.exp(load) - load - 1.0)
    rate = _find_usual_rates(repeats, pairs, known & (rows > 1))
    expected = rate * pairs
    own = _find_spread(repeats - expected, error + expected, known & (rows > 1))
    return Repeats(rows, repeats, expected, own * (error + expected + 1.0))


def _find_usual_rates(repeats: Floats, pairs: Floats, used: npt.NDArray[np.bool_]) -> Floats:
    """Repeats a pair of rows in the ticks before each, the newest 1,024 at most; the middle of blocks of 8 ticks."""
    rates = np.zeros(len(repeats))
    places = np.flatnonzero(used)
    for number, place in enumerate(places):
        if number % 8 == 0:
            held = places[max(number - 1024, 0) : number]
            blocks = len(held) // 8
            if blocks:
                top, all_pairs = (
                    one[held[: blocks * 8]].reshape(blocks, 8).sum(axis=1) for one in (repeats, pairs)
                )
                rate = max(float(np.median(top / np.maximum(all_pairs, 1e-9))), 0.0)
            else:
                rate = 0.0
        rates[place] = rate
    return rates


def _find_spread(difference: Floats, variance: Floats, used: npt.NDArray[np.bool_]) -> float:
    """How much larger the variance is than that of independent rows, from the middle half of the ticks."""
    held = np.flatnonzero(used)
    if len(held) < LEAST_HISTORY:
        return 1.0
    scaled = difference[held] / np.sqrt(np.maximum(variance[held], 1e-9))
    low, high = np.quantile(scaled, (0.25, 0.75))
    return float(max((high - low) / 1.349, 1.0) ** 2)


def find_excess(measured: Repeats, looks: int) -> RepeatExcess | None:
    """At the newest ticks; None if there is too little before them."""
    count = len(measured.rows)
    sums = [
        accumulate(one) for one in (measured.repeats, measured.expected, measured.variance, measured.rows)
    ]
    best: RepeatExcess | None = None
    for end in range(max(count - looks + 1, LEAST_HISTORY + 1), count + 1):
        for scale in SCALES:
            first = end - scale
            if first < LEAST_HISTORY:
                break
            seen, usual, variance, rows = (float(one[end] - one[first]) for one in sums)
            deviate = (seen - usual) / max(variance, 1e-9) ** 0.5
            if rows and (best is None or deviate > best.deviate):
                best = RepeatExcess(first, end - 1, deviate, max(seen, 0) / rows, usual / rows, round(rows))
    return best


def draw_trend(counts: RepeatCounts, measured: Repeats) -> Trend:
    """The share of rows that repeat another, by hour."""
    hours, places = np.unique(counts.starts // _HOUR_S, return_inverse=True)
    rows, seen, usual, variance = (
        np.bincount(places, one, minlength=len(hours))
        for one in (measured.rows, measured.repeats, measured.expected, measured.variance)
    )
    shown = rows > 0
    held = np.maximum(rows, 1.0)

    def to_values(values: Floats) -> tuple[float | None, ...]:
        return tuple(
            float(value) if used else None
            for value, used in zip(np.clip(values, 0.0, 1.0).tolist(), shown, strict=True)
        )

    spread = _CHANCE * np.sqrt(variance)
    return Trend(
        "share of rows that repeat another of their tick",
        tuple((hours * float(_HOUR_S)).tolist()),
        to_values(seen / held),
        to_values(usual / held),
        to_values((usual - spread) / held),
        to_values((usual + spread) / held),
    )
