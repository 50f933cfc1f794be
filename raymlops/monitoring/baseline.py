"""What a version is judged by: the expectation of its reference and of each of its segments, the families of tests, and
the thresholds that keep the number of false alarms. Made once for a reference, and kept as JSON."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.monitoring import thresholds
from raymlops.monitoring.deviates import QUALITY_TESTS, Floats
from raymlops.monitoring.expectation import Expectation, hours_of
from raymlops.monitoring.recent_counts import HOUR_S
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.season import UTC
from raymlops.monitoring.segments import Segment
from raymlops.monitoring.thresholds import Calibration, Tail
from raymlops.monitoring.ticks import ALL_ROWS
from raymlops.monitoring.windows import Tests

MONTH_S = 30 * 86_400.0
SEGMENTS = "segments"
"""The family of all tests of all segments, which share a part of the false alarms."""
FORMAT = 1
MOST_CELLS = 4_000
"""Columns times segments that are judged, the largest segments first: it bounds time and memory."""
_STEP = 4.0
"""Ratio of the rows of a tick at which thresholds are simulated."""
_LEAST_DAYS = 14
"""Of a reference from which its days are drawn; with fewer, rows are taken as independent."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    reference: Reference
    parts: Mapping[str, Expectation]
    """Of all rows, and of each segment by its name."""
    rows: Mapping[str, npt.NDArray[np.int64]]
    """Places of the reference's rows in each segment."""
    families: Mapping[str, Sequence[int]]
    """Places of the tests of each family."""
    zone: str = UTC
    """By whose clock hours and days are told."""

    @classmethod
    def of(cls, reference: Reference, segments: Sequence[Segment] = (), zone: str = UTC) -> "Baseline":
        tests = Tests.of(reference.kinds)
        most = max(MOST_CELLS // max(len(reference.columns), 1), 1)
        rows = {one.name: np.flatnonzero(one.find_rows(reference.codes)) for one in segments[:most]}
        if len(np.unique(reference.days)) >= _LEAST_DAYS:
            whole = Expectation.of_hours(hours_of(reference, zone=zone), tests)
            parts = {
                name: Expectation.of_hours(hours_of(reference, places, zone), tests, whole)
                for name, places in rows.items()
            }
        else:
            whole = Expectation.of_codes(reference.codes, tests)
            parts = {
                name: Expectation.of_codes(reference.codes[places], tests) for name, places in rows.items()
            }
        return cls(reference, {ALL_ROWS: whole, **parts}, rows, find_families(reference, tests), zone)

    @property
    def whole(self) -> Expectation:
        return self.parts[ALL_ROWS]

    @property
    def tests(self) -> Tests:
        return self.whole.tests


def find_families(reference: Reference, tests: Tests) -> dict[str, list[int]]:
    """Missing, new and out of range; the answers; all else of the inputs. Those without a test are absent."""
    found: dict[str, list[int]] = {"quality": [], "score": [], "columns": []}
    for place, (column, test) in enumerate(tests.names):
        role = reference.columns[column].role
        if role in ("score", "label"):
            found["score"].append(place)
        elif role == "input" and test in QUALITY_TESTS:
            found["quality"].append(place)
        elif test != "missing":  # a residual is missing where its column is
            found["columns"].append(place)
    return {name: places for name, places in found.items() if places}


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Of one baseline: for hours of days, if its reference has times, and for ticks of about so many rows."""

    digest: str
    """Of the reference and its segments."""
    hours: Calibration | None = None
    rows: Mapping[int, Calibration] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "digest": self.digest,
            "hours": self.hours.to_json() if self.hours else None,
            "rows": {str(size): one.to_json() for size, one in self.rows.items()},
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> "Thresholds":
        """Raises ValueError, KeyError or TypeError for what `to_json` did not write."""
        if held["format"] != FORMAT:
            raise ValueError(f"thresholds have format {held['format']!r}")
        hours = Calibration.from_json(held["hours"]) if held["hours"] else None
        rows = {int(size): Calibration.from_json(one) for size, one in held["rows"].items()}
        return cls(str(held["digest"]), hours, rows)

    def complete(self, baseline: Baseline, rows: float, seconds: float) -> "Thresholds":
        """With what judging ticks of so many rows and seconds needs; simulates for seconds what is not known yet."""
        known = self
        if baseline.whole.timed and known.hours is None:
            known = dataclasses.replace(known, hours=_calibrate_hours(baseline))
        size = _round_rows(rows)
        if not (baseline.whole.timed and seconds >= HOUR_S) and size not in known.rows:
            made = thresholds.calibrate_rows(
                baseline.reference, size, baseline.families, list(baseline.rows.values())
            )
            known = dataclasses.replace(known, rows={**known.rows, size: made})
        return known

    def choose(self, rows: float, seconds: float) -> "Levels":
        """For ticks of so many rows and seconds."""
        if self.hours is not None and seconds >= HOUR_S:
            return Levels(((1.0, self.hours.tails),), np.array(self.hours.factors))
        own = self.rows[_round_rows(rows)]
        if self.hours is None:
            return Levels(((1.0, own.tails),), np.array(own.factors))
        # what hangs together in an hour shows in shorter ticks, too: the larger threshold holds
        both = ((1.0, own.tails), (HOUR_S / seconds, self.hours.tails))
        return Levels(both, np.array(self.hours.factors))


class Levels:
    """How large statistics must be at a rate of false alarms: `tails` of families, each with the number of ticks that
    its own tick has."""

    def __init__(self, tails: Sequence[tuple[float, Mapping[str, Tail]]], factors: Floats) -> None:
        self._tails, self.roots = tails, np.sqrt(factors)
        self.families = frozenset(tails[0][1])

    def find_threshold(self, family: str, rate: float) -> float:
        """For so many false alarms a tick."""
        return max(
            tails[family].find_threshold(rate * ticks) for ticks, tails in self._tails if family in tails
        )

    def find_rate(self, family: str, statistic: float) -> float:
        """False alarms a tick at which the threshold is as large as this."""
        return max(
            tails[family].find_rate(statistic) / ticks for ticks, tails in self._tails if family in tails
        )


def _round_rows(rows: float) -> int:
    """To a power of 4: thresholds hardly depend on it."""
    return int(_STEP ** min(max(round(math.log(max(rows, 1.0), _STEP)), 0), 8))


def _calibrate_hours(baseline: Baseline) -> Calibration:
    reference, zone = baseline.reference, baseline.zone
    hours = hours_of(reference, zone=zone)
    parts = [
        (hours_of(reference, places, zone), baseline.parts[name]) for name, places in baseline.rows.items()
    ]
    return thresholds.calibrate_hours(hours, baseline.whole, baseline.families, parts)


def share_rate(false_alarms_per_month: float, families: int, clocks: int, seconds: float) -> float:
    """False alarms a tick of so many seconds: each family and each clock has an equal part."""
    return false_alarms_per_month / max(families, 1) / max(clocks, 1) * seconds / MONTH_S
