"""Entries of the log of incidents as JSON bytes, and back. Knows no files."""

import dataclasses
import datetime
import json
import math
import typing
from typing import Any

from raymlops.errors import SpecError
from raymlops.events.incident import Action, Alarm, Cause, Entry, Family, Watched

_ACTIONS, _FAMILIES = typing.get_args(Action), typing.get_args(Family)


def write_entry(entry: Entry) -> bytes:
    """Numbers that JSON lacks become null, and numbers of numpy those of JSON."""
    held: dict[str, Any] = {
        "incident": entry.incident,
        "action": entry.action,
        "at": entry.at.isoformat(),
        "who": entry.who,
        "why": entry.why,
        "until": entry.until.isoformat() if entry.until else None,
    }
    if entry.alarm is not None:
        alarm = entry.alarm
        held["alarm"] = {
            **{field.name: getattr(alarm, field.name) for field in dataclasses.fields(alarm)},
            "watched": alarm.watched._asdict(),
            "causes": [cause._asdict() | {"share": _to_number(cause.share)} for cause in alarm.causes],
            "numbers": {str(name): _to_number(value) for name, value in alarm.numbers.items()},
            "rows": int(alarm.rows),
            "at": alarm.at.isoformat(),
            "since": alarm.since.isoformat() if alarm.since else None,
        }
    return json.dumps(held, default=str).encode()


def read_entry(data: bytes, number: int) -> Entry:
    """Raises SpecError if it is not an entry of this release."""
    try:
        held = json.loads(data)
        if held["action"] not in _ACTIONS:
            raise ValueError(f"unknown action {held['action']!r}")
        return Entry(
            incident=int(held["incident"]),
            action=held["action"],
            at=_to_time(held["at"]),
            who=str(held["who"]),
            why=str(held["why"]),
            alarm=_read_alarm(held["alarm"]) if held.get("alarm") else None,
            until=_to_time(held["until"]) if held.get("until") else None,
            number=number,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"Entry {number} of the log of incidents cannot be read: {error}") from None


def _read_alarm(held: dict[str, Any]) -> Alarm:
    watched = Watched(**held["watched"])
    if watched.family not in _FAMILIES or held["severity"] not in ("page", "note"):
        raise ValueError(f"unknown family {watched.family!r} or severity {held['severity']!r}")
    known = {field.name for field in dataclasses.fields(Alarm)}
    parts = {name: value for name, value in held.items() if name in known}  # a later release may have more
    return Alarm(
        **parts
        | {
            "watched": watched,
            "causes": tuple(Cause(**cause) for cause in held["causes"]),
            "columns": tuple(held["columns"]),
            "numbers": {
                name: math.nan if value is None else value for name, value in held["numbers"].items()
            },
            "at": _to_time(held["at"]),
            "since": _to_time(held["since"]) if held["since"] else None,
        }
    )


def _to_number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _to_time(text: str) -> datetime.datetime:
    at = datetime.datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return at
