"""What a judge says of a version, as values: what differs beyond chance, since when and how rarely by chance; and, of
each column, segment and the repeated rows, what a person is shown beside it. Decides nothing: `judge` does.

Times are in seconds since 1970, UTC.
"""

import dataclasses
import datetime
from typing import Literal

from raymlops.events.event import Severity
from raymlops.events.incident import Alarm, Cause, Incident, Watched
from raymlops.monitoring.comparison import ColumnShares, Finding

StatisticalFamily = Literal["quality", "score", "labels", "columns"]
REPEATED_ROWS = "repeated rows"
"""The name under which repeats stand among columns."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The tests of one family, in all rows or one segment, that exceed the threshold. It becomes an incident."""

    family: StatisticalFamily
    segment: str
    """Empty for all rows."""
    severity: Severity
    since: float
    """Start of the window in which the change is largest."""
    until: float
    rows: int
    """Of that window."""
    findings: tuple[Finding, ...]
    """One a column, the likeliest cause first; empty for repeated rows."""
    columns: tuple[str, ...]
    deviate: float
    threshold: float
    seconds_by_chance: float
    """Chance alone exceeds the largest deviate once in so many seconds, at this traffic."""
    sentence: str
    causes: tuple[Cause, ...] = ()
    chance: str = ""
    damage: str = ""

    def to_alarm(self, model: str, version: str, damage: str = "") -> Alarm:
        """What is recorded as an incident."""
        return Alarm(
            Watched(model, version, self.family, self.segment),
            self.sentence,
            self.severity,
            to_time(self.until),
            since=to_time(self.since),
            rows=self.rows,
            columns=self.columns,
            numbers={"deviate": self.deviate, "threshold": self.threshold},
            causes=self.causes,
            damage=damage or self.damage,
            chance=self.chance,
        )


@dataclasses.dataclass(frozen=True)
class Trend:
    """A number over time; None where there were no rows. `low` to `high` is where chance alone has nearly all values
    (99.7%). All are as long as `times`."""

    label: str
    times: tuple[float, ...]
    """The start of each period."""
    values: tuple[float | None, ...]
    usual: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class ColumnJudgement:
    """`shares` are of the newest rows that were judged together, `rows` their number."""

    shares: ColumnShares
    rows: int
    finding: Finding | None
    trend: Trend
    deviates: tuple[float | None, ...]
    """The largest of each period, of the same times as the trend."""


@dataclasses.dataclass(frozen=True)
class SegmentJudgement:
    """Rows of one segment, and the column of it that is least likely."""

    name: str
    rows: int
    share: float
    usual_share: float
    column: str
    deviate: float
    finding: Finding | None = None


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A version of an application, judged at one time."""

    model: str
    version: str
    reference_rows: int
    rows: int
    """Counted in `start` to `at`."""
    start: float
    at: float
    verdicts: tuple[Verdict, ...]
    watched: frozenset[tuple[StatisticalFamily, str]]
    """Families and segments that were judged: those without a verdict are clean."""
    columns: tuple[ColumnJudgement, ...] = ()
    """The least likely first."""
    segments: tuple[SegmentJudgement, ...] = ()
    repeats: Trend | None = None
    """The share of rows that repeat another one of their tick."""
    row_counts: Trend | None = None
    """Rows of each period."""
    thresholds: dict[StatisticalFamily, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What could not be judged, and why."""

    @property
    def differs(self) -> bool:
        return bool(self.verdicts)

    def list_clean(self) -> frozenset[Watched]:
        """What was judged and has no verdict."""
        found = {(one.family, one.segment) for one in self.verdicts}
        return frozenset(
            Watched(self.model, self.version, family, segment) for family, segment in self.watched - found
        )


@dataclasses.dataclass(frozen=True)
class ApplicationJudgement:
    """All versions of an application that are watched, judged at one time."""

    application: str
    at: float
    versions: tuple[Judgement, ...]
    incidents: tuple[Incident, ...] = ()
    """That are open, or were in the time that is shown; the newest first."""
    notes: tuple[str, ...] = ()
    """What could not be judged or recorded, and why."""


def to_time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
