"""The health of an application as one value: all that a person is shown of its models, ready to be written as a page or
in a terminal. Pure: reads no store, judges nothing, so that there is one verdict, the judge's.
"""

import dataclasses
import datetime
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.events import incident as states
from raymlops.events.incident import Alarm, Incident
from raymlops.monitoring.incident_rules import choose_alarms
from raymlops.monitoring.judgement import ColumnJudgement, Judgement, SegmentJudgement, Trend

STALE_AFTER = datetime.timedelta(minutes=15)
"""Without a new count for so long, an application cannot be said to be well; with wider ticks, for three of them."""
_MOST = 1e150
_MOST_PERIODS = 5_000


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measure of quality. `low` to `high` of its trends are intervals; `sentences` are its newest values in words, or
    why there are none."""

    name: str
    usual: float | None = None
    """On the rows of the reference."""
    estimated: Trend | None = None
    """Without labels."""
    measured: Trend | None = None
    """With the labels that came."""
    sentences: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Requests to a model in the period, and rows that are in no count."""

    requests: int = 0
    failed: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    trends: tuple[Trend, ...] = ()
    """Rows, share of failures, latency."""
    lost: int = 0
    """Rows that were answered and are in no count: a process was killed, or a queue was full."""
    left_out: int = 0
    """Rows that the sample of a large load leaves out."""


@dataclasses.dataclass(frozen=True)
class ModelHealth:
    """A version that an application serves, at one place: the endpoint, a node of a graph, a shadow, a canary."""

    model: str
    version: str
    path: str = ""
    """The endpoint, and the node of a graph: `flights/challenger`."""
    role: str = ""
    """`endpoint`, `node`, `shadow`, `canary` or `table`."""
    rows: int = 0
    """Counted in the whole period."""
    last: datetime.datetime | None = None
    """The end of the newest rows."""
    judgement: Judgement | None = None
    """None if its rows are not compared with a reference."""
    unwatched: str = ""
    """Then, why, and what to do about it."""
    metrics: tuple[Metric, ...] = ()
    traffic: Traffic = Traffic()
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Columns that are not watched, each with the reason."""

    @property
    def name(self) -> str:
        """`flights v4`, and where it is not the endpoint itself, `flights v5 (shadow at flights/challenger)`."""
        name = f"{self.model} v{self.version}" if self.version else self.model
        return name if self.role in ("", "endpoint") else f"{name} ({self.role} at {self.path})"

    @property
    def columns(self) -> tuple[ColumnJudgement, ...]:
        """Those with a finding first, then by surprise."""
        found = self.judgement.columns if self.judgement else ()
        return tuple(sorted(found, key=lambda one: (one.finding is None, -one.shares.deviate)))

    @property
    def scores(self) -> tuple[ColumnJudgement, ...]:
        return tuple(one for one in self.columns if one.shares.column.role == "score")

    @property
    def inputs(self) -> tuple[ColumnJudgement, ...]:
        """All columns that are no answers."""
        return tuple(one for one in self.columns if one.shares.column.role not in ("score", "label"))

    @property
    def differing(self) -> tuple[ColumnJudgement, ...]:
        return tuple(one for one in self.columns if one.finding is not None)

    @property
    def segments(self) -> tuple[SegmentJudgement, ...]:
        """Those with a finding first, then by surprise."""
        found = self.judgement.segments if self.judgement else ()
        return tuple(sorted(found, key=lambda one: (one.finding is None, -one.deviate)))


@dataclasses.dataclass(frozen=True)
class Health:
    """An application from `start` to `at`."""

    application: str
    start: datetime.datetime
    at: datetime.datetime
    models: tuple[ModelHealth, ...] = ()
    incidents: tuple[Incident, ...] = ()
    """Those that were open in the period, the newest first."""
    lost_nodes: tuple[str, ...] = ()
    """Nodes that were lost with replicas, whose last counts nobody knows."""
    notes: tuple[str, ...] = ()
    """What could not be read, and what that means."""
    tick: datetime.timedelta = datetime.timedelta(minutes=1)
    """The width of a tick: so late are counts."""

    @property
    def open(self) -> tuple[Incident, ...]:
        """Open and not silenced, pages first."""
        found = [one for one in self.incidents if one.open and not one.is_silent(self.at)]
        return tuple(sorted(found, key=lambda one: one.alarm.severity != "page"))

    @property
    def silenced(self) -> tuple[Incident, ...]:
        return tuple(one for one in self.incidents if one.is_silent(self.at))

    @property
    def closed(self) -> tuple[Incident, ...]:
        return tuple(one for one in self.incidents if not one.open)

    @property
    def pages(self) -> tuple[Incident, ...]:
        """Open and not silenced, and of those that wake a person."""
        return tuple(one for one in self.open if one.alarm.severity == "page")

    @property
    def unraised(self) -> tuple[Alarm, ...]:
        """What the judge finds now without an open incident, pages first: it was just found, or nobody judges live."""
        is_open = {one.alarm.watched for one in self.incidents if one.open}
        found = {
            alarm.watched: alarm
            for one in self.watched
            if one.judgement is not None
            for alarm in choose_alarms(one.judgement, self.incidents)
            if alarm.watched not in is_open
        }
        return tuple(sorted(found.values(), key=lambda one: one.severity != "page"))

    @property
    def watched(self) -> tuple[ModelHealth, ...]:
        """Models whose rows are compared with a reference."""
        return tuple(one for one in self.models if one.judgement is not None)

    @property
    def last(self) -> datetime.datetime | None:
        """The end of the newest rows of any model."""
        return max((one.last for one in self.models if one.last), default=None)

    @property
    def is_stale(self) -> bool:
        """Whether what answers requests has counted nothing of late; files are predicted when somebody does."""
        last = [one.last for one in self.models if one.role != "table"]
        newest = max((one for one in last if one), default=None)
        return bool(last) and (newest is None or self.at - newest > max(STALE_AFTER, 3 * self.tick))

    @property
    def state(self) -> str:
        """page, note, unknown or well. It is unknown where nothing is counted or compared: silence is not health."""
        if self.pages or any(one.severity == "page" for one in self.unraised):
            return "page"
        if self.notes or not self.watched or self.last is None or self.is_stale:
            return "unknown"
        return "note" if self.open or self.silenced or self.unraised else "well"

    def describe(self) -> str:
        """The state in a sentence or two."""
        told = " ".join(part for part in (self._describe_state(), *self._describe_gaps()) if part)
        return " ".join(told.split())

    def _describe_state(self) -> str:
        told = [f"{count(len(self.open), 'note')} to read by day."] if self.open else []
        told += [f"{count(len(self.silenced), 'alarm')} silenced."] if self.silenced else []
        notes = " ".join(told)
        rows = count(sum(one.rows for one in self.models), "row")
        if self.unraised and not self.pages:
            others = f" And {count(len(self.open), 'open alarm')}." if self.open else ""
            return f"{end_sentence(self.unraised[0].sentence)} No alarm was raised of it yet.{others}"
        if self.pages:
            more = len(self.open) - 1
            rest = f" And {count(more, 'more open alarm')}." if more else ""
            return end_sentence(self.pages[0].alarm.sentence) + rest
        if self.last is None:
            return f"No rows were counted in this period: no request came, or monitoring is off. {notes}"
        if self.is_stale:
            ago = write_span(self.at - self.last)
            return f"No rows since {write_time(self.last)}, {ago} ago, so whether all is well is not known. {notes}"
        if not self.watched:
            return f"{rows}, of which none is compared with a reference. {notes}"
        versions = sorted({one.name for one in self.watched})
        columns = sum(len(one.columns) for one in self.watched)
        seen = f"{rows} of {join_names(versions, 3)}, {count(columns, 'column')}"
        if self.notes:
            return f"Whether all is well is not known. {notes} {seen}."
        if notes:
            return f"Nothing wakes a person. {notes} {seen}."
        return f"All well: nothing differs beyond chance. {seen}."

    def _describe_gaps(self) -> list[str]:
        """What is not watched or not known, beside the state."""
        unwatched = [one.name for one in self.models if one.judgement is None]
        lost = sum(one.traffic.lost for one in self.models)
        return [
            f"Not compared: {join_names(unwatched)}." if unwatched and self.watched else "",
            f"{count(lost, 'answered row')} in no count." if lost else "",
            f"Of lost nodes nobody knows the last counts: {join_names(self.lost_nodes)}."
            if self.lost_nodes
            else "",
            *(end_sentence(note) for note in self.notes),
        ]


def to_json(health: Health) -> dict[str, Any]:
    """As JSON values: what is no number is null."""
    found = {
        "application": health.application,
        "state": health.state,
        "sentence": health.describe(),
        "start": _to_text(health.start),
        "at": _to_text(health.at),
        "incidents": [states.describe(one, health.at) for one in health.incidents],
        "lost_nodes": list(health.lost_nodes),
        "models": [_model_to_json(one) for one in health.models],
        "notes": list(health.notes),
    }
    return {name: _to_finite(value) for name, value in found.items()}


def _to_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_finite(inner) for inner in value]
    return _to_number(value) if isinstance(value, float) else value


def _model_to_json(model: ModelHealth) -> dict[str, Any]:
    judgement = model.judgement
    traffic = dataclasses.asdict(model.traffic)
    return {
        **{name: getattr(model, name) for name in ("model", "version", "path", "role", "rows", "unwatched")},
        "last": _to_text(model.last),
        "reference_rows": judgement.reference_rows if judgement else None,
        "thresholds": dict(judgement.thresholds) if judgement else {},
        "traffic": {**traffic, "trends": [_trend_to_json(one) for one in model.traffic.trends]},
        "quality": [
            {
                "metric": one.name,
                "usual": one.usual,
                "estimated": _trend_to_json(one.estimated),
                "measured": _trend_to_json(one.measured),
                "sentences": list(one.sentences),
            }
            for one in model.metrics
        ],
        "columns": [_column_to_json(one) for one in model.columns],
        "segments": [
            {
                **{name: getattr(one, name) for name in ("name", "rows", "share", "usual_share", "column", "deviate")},
                "finding": one.finding.describe() if one.finding else "",
            }
            for one in model.segments
        ],
        "repeats": _trend_to_json(judgement.repeats if judgement else None),
        "not_watched": dict(model.left_out),
    }  # fmt: skip


def _column_to_json(one: ColumnJudgement) -> dict[str, Any]:
    column, shares = one.shares.column, one.shares
    used = [place for place in range(len(shares.usual)) if shares.usual[place] or shares.now[place]]
    return {
        "column": column.name,
        "role": column.role,
        "deviate": shares.deviate,
        "finding": one.finding.describe() if one.finding else "",
        "rows": one.rows,
        "cells": [
            {
                "cell": column.cells.describe(place),
                "usual": float(shares.usual[place]),
                "now": float(shares.now[place]),
            }
            for place in used
        ],
        "trend": _trend_to_json(one.trend),
    }


def _trend_to_json(trend: Trend | None) -> dict[str, Any] | None:
    if trend is None:
        return None
    held = {name: getattr(trend, name) for name in ("times", "values", "usual", "low", "high")}
    known = {name: line for name, line in held.items() if any(value is not None for value in line)}
    return {"label": trend.label, **{name: list(line) for name, line in known.items()}}


def _to_number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def plain_trend(label: str, times: Sequence[float], values: Sequence[float | None]) -> Trend:
    """A number over time that is compared with nothing."""
    nothing = (None,) * len(times)
    return Trend(label, tuple(times), tuple(values), nothing, nothing, nothing)


def keep_drawable(health: Health) -> Health:
    """Trends as they can be drawn: with the periods without rows, which counts do not have, and without what no axis
    can hold: NaN, and numbers near the largest of floating point."""
    return dataclasses.replace(health, models=tuple(map(_keep_drawable, health.models)))


def _keep_drawable(model: ModelHealth) -> ModelHealth:
    judged = model.judgement
    if judged is not None:
        judged = dataclasses.replace(
            judged,
            columns=tuple(
                dataclasses.replace(
                    one, trend=_to_drawable(one.trend), deviates=_fill(one.deviates, one.trend.times)
                )
                for one in judged.columns
            ),
            repeats=_to_drawable(judged.repeats) if judged.repeats else None,
        )
    metrics = tuple(
        dataclasses.replace(
            one,
            usual=_to_number(one.usual),
            estimated=_to_drawable(one.estimated) if one.estimated else None,
            measured=_to_drawable(one.measured) if one.measured else None,
        )
        for one in model.metrics
    )
    traffic = dataclasses.replace(model.traffic, trends=tuple(map(_to_drawable, model.traffic.trends)))
    return dataclasses.replace(model, judgement=judged, metrics=metrics, traffic=traffic)


def _to_drawable(trend: Trend) -> Trend:
    values, usual, low, high = (
        _fill([one if one is not None and abs(one) < _MOST else None for one in line], trend.times)
        for line in (trend.values, trend.usual, trend.low, trend.high)
    )
    return Trend(trend.label, _list_periods(trend.times), values, usual, low, high)


def _list_periods(times: tuple[float, ...]) -> tuple[float, ...]:
    """All from the first to the last, a period being the shortest distance of two; the times if those are too many."""
    step = min((later - one for one, later in itertools.pairwise(times)), default=0.0)
    if step <= 0 or (times[-1] - times[0]) / step > _MOST_PERIODS:
        return times
    return tuple(times[0] + step * place for place in range(round((times[-1] - times[0]) / step) + 1))


def _fill(line: Sequence[float | None], times: tuple[float, ...]) -> tuple[float | None, ...]:
    """The values of these times by period, None where there is none."""
    periods = _list_periods(times)
    if len(periods) == len(times) or len(line) != len(times):
        return tuple(line)
    step = periods[1] - periods[0]
    found: list[float | None] = [None] * len(periods)
    for time, value in zip(times, line, strict=True):
        found[round((time - times[0]) / step)] = value
    return tuple(found)


def find_last(trend: Trend | None) -> float | None:
    """The newest value."""
    values = trend.values if trend else ()
    return next((value for value in reversed(values) if value is not None), None)


def is_outside(value: float | None, low: float | None, high: float | None) -> bool:
    """Whether a value lies outside a band; not if one of them is not known."""
    return value is not None and low is not None and high is not None and not low <= value <= high


def count(number: int, noun: str) -> str:
    """`1 row`, `3,100 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def join_names(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def end_sentence(text: str) -> str:
    return text if text.rstrip().endswith((".", "!", "?")) else f"{text.rstrip()}."


def write_time(at: datetime.datetime) -> str:
    """`2026-07-01 12:10 UTC`."""
    return f"{at.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def write_span(span: datetime.timedelta) -> str:
    """In the largest unit of which there are two: `45 minutes`, `30 hours`, `9 days`."""
    seconds = max(span.total_seconds(), 0.0)
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return count(round(seconds / size), unit)
    return count(round(seconds), "second") if seconds < 60 else "1 minute"


def _to_text(at: datetime.datetime | None) -> str | None:
    return at.astimezone(datetime.UTC).isoformat(timespec="seconds") if at else None
