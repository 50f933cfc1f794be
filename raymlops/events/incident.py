"""An incident: an alarm with a life. Pure functions from what was recorded to its present state, and from what a judge
finds to what is to be recorded. Reads and writes nothing.

    raised -> updated -> ... -> closed      by clean judgements, or by a person
       acknowledged, silenced until a time: by a person, while it is open
"""

import dataclasses
import datetime
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from raymlops.errors import SpecError
from raymlops.events.event import Event, Severity

Family = Literal["quality", "score", "labels", "columns", "operations"]
"""What is watched: missing and impossible values; answers; answers against labels; other columns; errors, latency and
the like."""
Action = Literal["raised", "updated", "again", "clean", "acknowledged", "silenced", "closed"]
"""What an entry records; `again` is an alarm without news after a clean judgement, `clean` a clean judgement."""

REMIND_AFTER = datetime.timedelta(days=1)
"""An open incident that goes on has news after so long without any."""
_GREW = 10
"""Times as many rows since the last entry are news."""


class Watched(NamedTuple):
    """What an incident is about; an application has at most one that is open for each."""

    model: str
    version: str
    family: Family
    segment: str = ""
    """Such as `origin=JFK`; empty is all rows."""
    check: str = ""
    """Which of several things that are watched side by side in a family, such as errors and latency of operations."""


class Cause(NamedTuple):
    """One of the ranking of causes: a column, and its share of the change if that was measured."""

    column: str
    share: float | None = None
    sentence: str = ""


@dataclasses.dataclass(frozen=True)
class Alarm:
    """What a judge found in one judgement."""

    watched: Watched
    sentence: str
    """What, since when, now against usual."""
    severity: Severity
    at: datetime.datetime
    """Of the newest rows that were judged; with a time zone."""
    since: datetime.datetime | None = None
    """Of the first rows that differ."""
    rows: int = 0
    columns: tuple[str, ...] = ()
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    causes: tuple[Cause, ...] = ()
    """The likeliest first."""
    damage: str = ""
    """Estimated, as a sentence."""
    chance: str = ""
    """How rare chance alone makes this, as a sentence."""
    next: str = ""
    """The command to run next; empty shows the incident."""

    def __post_init__(self) -> None:
        if self.at.tzinfo is None or (self.since is not None and self.since.tzinfo is None):
            raise SpecError("The times of an alarm need a time zone, such as datetime.UTC")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of an application's log of incidents."""

    incident: int
    action: Action
    at: datetime.datetime
    who: str
    why: str = ""
    alarm: Alarm | None = None
    """Of raised, updated and again."""
    until: datetime.datetime | None = None
    """Of silenced."""
    number: int = 0
    """Its place in the log; incidents have the number of the entry that raised them."""


@dataclasses.dataclass(frozen=True)
class Incident:
    """The present state, folded from its entries."""

    application: str
    number: int
    alarm: Alarm
    """The newest."""
    first: datetime.datetime
    last: datetime.datetime
    """Of the newest entry with an alarm."""
    acknowledged: str = ""
    """By whom."""
    silenced_until: datetime.datetime | None = None
    clean: int = 0
    """Clean judgements since the last alarm."""
    closed: datetime.datetime | None = None
    entries: tuple[Entry, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.application}/{self.number}"

    @property
    def open(self) -> bool:
        return self.closed is None

    def is_silent(self, at: datetime.datetime) -> bool:
        return self.open and self.silenced_until is not None and at < self.silenced_until

    def state(self, at: datetime.datetime) -> str:
        """closed, silenced, acknowledged or open."""
        if not self.open:
            return "closed"
        return "silenced" if self.is_silent(at) else "acknowledged" if self.acknowledged else "open"


def fold(application: str, entries: Iterable[Entry]) -> dict[int, Incident]:
    """All incidents of a log by their number. Entries that do not fit, as of an incident that is closed, are passed
    over: two people may have acted at once."""
    found: dict[int, Incident] = {}
    for entry in entries:
        known = found.get(entry.incident)
        if known is None:
            if entry.action == "raised" and entry.alarm is not None:
                first = entry.alarm.since or entry.alarm.at
                found[entry.incident] = Incident(
                    application, entry.incident, entry.alarm, first, entry.alarm.at, entries=(entry,)
                )
        elif known.open:
            found[entry.incident] = _apply(known, entry)
    return found


def _apply(known: Incident, entry: Entry) -> Incident:
    changed = dataclasses.replace(known, entries=(*known.entries, entry))
    if entry.alarm is not None:
        return dataclasses.replace(changed, alarm=entry.alarm, last=entry.alarm.at, clean=0)
    match entry.action:
        case "acknowledged":
            return dataclasses.replace(changed, acknowledged=entry.who)
        case "silenced":
            return dataclasses.replace(changed, silenced_until=entry.until)
        case "clean":
            return dataclasses.replace(changed, clean=known.clean + 1)
        case "closed":
            return dataclasses.replace(changed, closed=entry.at)
    return changed


def find_open(incidents: Iterable[Incident], watched: Watched) -> Incident | None:
    return next((one for one in incidents if one.open and one.alarm.watched == watched), None)


def decide(known: Incident | None, alarm: Alarm, who: str, at: datetime.datetime) -> Entry | None:
    """What an alarm adds to the log: raised without an open incident, updated if it has news, again if a clean
    judgement was between, else nothing."""
    if known is None:
        return Entry(0, "raised", at, who, alarm=alarm)
    if news := find_news(known, alarm, at):
        return Entry(known.number, "updated", at, who, why=news, alarm=alarm)
    return Entry(known.number, "again", at, who, alarm=alarm) if known.clean else None


def find_news(known: Incident, alarm: Alarm, at: datetime.datetime) -> str:
    """Why an alarm of an open incident is worth an update, in words; empty if it is not."""
    before = known.alarm
    if alarm.severity == "page" and before.severity == "note":
        return "it now wakes a person"
    if added := [name for name in alarm.columns if name not in before.columns]:
        return f"more columns: {', '.join(added[:10])}"
    told = max(
        (entry.at for entry in known.entries if entry.action in ("raised", "updated")), default=known.first
    )
    if known.silenced_until is not None and told < known.silenced_until <= at:
        return "it goes on, and is no longer silenced"
    if alarm.rows >= _GREW * max(1, before.rows) and before.rows:
        return f"{alarm.rows:,} rows, {before.rows:,} at the last message"
    if at - told >= REMIND_AFTER:
        return "it goes on"
    return ""


def decide_clean(known: Incident, needed: int, who: str, at: datetime.datetime) -> Entry:
    """What a clean judgement adds: the last of `needed` in a row closes the incident."""
    if known.clean + 1 >= needed:
        times = "a clean judgement" if needed == 1 else f"{needed} clean judgements in a row"
        return Entry(known.number, "closed", at, who, why=f"closed by itself after {times}")
    return Entry(known.number, "clean", at, who)


_TYPES: Mapping[Action, str] = {
    "raised": "raymlops.alarm.raised",
    "updated": "raymlops.alarm.updated",
    "acknowledged": "raymlops.alarm.updated",
    "silenced": "raymlops.alarm.updated",
    "closed": "raymlops.alarm.closed",
}


def to_event(incident: Incident, entry: Entry) -> Event | None:
    """The event of an entry of an incident; None if there is nothing to tell, as while it is silenced. It is a page if
    the incident is raised with that severity, or comes to it; what follows are notes. The id is that of the entry, so
    that an event which is emitted again is told once."""
    kind = _TYPES.get(entry.action)
    if kind is None or (entry.action == "updated" and incident.is_silent(entry.at)):
        return None
    alarm = incident.alarm
    earlier = [one.alarm.severity for one in incident.entries if one.alarm and one.number < entry.number]
    wakes = entry.action in ("raised", "updated") and alarm.severity == "page" and "page" not in earlier
    return Event(
        type=kind,
        application=incident.application,
        subject=incident.id,
        what=_write_sentence(incident, entry),
        severity="page" if wakes else "note",
        who=entry.who,
        why=entry.why or alarm.chance,
        next=(alarm.next if entry.alarm else "") or f"raymlops alarms show {shlex.quote(incident.id)}",
        model=alarm.watched.model,
        version=alarm.watched.version,
        segment=alarm.watched.segment,
        numbers=alarm.numbers,
        details=describe(incident, entry.at),
        id=f"{incident.id}/{entry.number}",
        time=_write_time(entry.at),
    )


def _write_sentence(incident: Incident, entry: Entry) -> str:
    sentence = incident.alarm.sentence
    match entry.action:
        case "acknowledged":
            return f"Acknowledged by {entry.who}: {sentence}"
        case "silenced":
            return f"Silenced by {entry.who} until {_write_time(entry.until or entry.at)}: {sentence}"
        case "closed":
            return f"Closed: {sentence}"
    return sentence


def describe(incident: Incident, at: datetime.datetime) -> dict[str, Any]:
    """An incident as JSON values, without its entries."""
    alarm, watched = incident.alarm, incident.alarm.watched
    return {
        "id": incident.id,
        "application": incident.application,
        "state": incident.state(at),
        "severity": alarm.severity,
        "sentence": alarm.sentence,
        "model": watched.model,
        "version": watched.version,
        "family": watched.family,
        "segment": watched.segment,
        "check": watched.check,
        "columns": list(alarm.columns),
        "first": _write_time(incident.first),
        "last": _write_time(incident.last),
        "rows": alarm.rows,
        "numbers": dict(alarm.numbers),
        "causes": [cause._asdict() for cause in alarm.causes],
        "damage": alarm.damage,
        "chance": alarm.chance,
        "acknowledged_by": incident.acknowledged,
        "silenced_until": _write_time(incident.silenced_until) if incident.silenced_until else None,
        "clean_judgements": incident.clean,
        "closed": _write_time(incident.closed) if incident.closed else None,
        "next": alarm.next or f"raymlops alarms show {shlex.quote(incident.id)}",
    }


def list_entries(incident: Incident) -> list[dict[str, Any]]:
    """The life of an incident as JSON values, the oldest first."""
    return [
        {
            "at": _write_time(entry.at),
            "action": entry.action,
            "who": entry.who,
            "why": entry.why,
            "until": _write_time(entry.until) if entry.until else None,
            "sentence": entry.alarm.sentence if entry.alarm else "",
        }
        for entry in incident.entries
    ]


def count_open(incidents: Sequence[Incident], at: datetime.datetime) -> int:
    """Those that are open and not silenced."""
    return sum(one.open and not one.is_silent(at) for one in incidents)


def _write_time(at: datetime.datetime) -> str:
    return at.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
