"""An event: what happened, to what, who did it and why, its numbers and the next command; as CloudEvents 1.0 JSON.
Sends nothing.

https://github.com/cloudevents/spec/blob/main/cloudevents/formats/json-format.md
"""

import dataclasses
import datetime
import json
import math
import typing
import urllib.parse
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from raymlops.errors import SpecError, encodable, shorten, to_one_line, unknown_name

Severity = Literal["page", "note"]
"""A page wakes a person, a note is read by day."""
_SEVERITIES = typing.get_args(Severity)

TYPES: Mapping[str, str] = {
    "raymlops.alarm.raised": "something that is watched left what chance explains, or an operational limit",
    "raymlops.alarm.updated": "an open alarm has news: it grew, or a person acknowledged or silenced it",
    "raymlops.alarm.closed": "an alarm ended, by itself after clean judgements or by a person",
    "raymlops.notify.test": "a person tries the channels with `raymlops notify test`",
}
"""Every type of event that the product has -> when it is sent."""

MEDIA_TYPE = "application/cloudevents+json"
MAX_BYTES = 64 * 1024
"""Largest event, as CloudEvents asks every intermediary to accept."""


def now() -> str:
    """The time in UTC as RFC 3339, with milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclasses.dataclass(frozen=True)
class Event:
    """`subject` is what it is about, such as `flights/231`; equal type, subject and severity are repeats of one thing.
    `id` is unique for its application: receivers use it to ignore what they already have."""

    type: str
    application: str
    subject: str
    what: str
    """The sentence that a person reads."""
    severity: Severity = "note"
    who: str = ""
    why: str = ""
    next: str = ""
    """The command to run next."""
    model: str = ""
    version: str = ""
    segment: str = ""
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else its type tells; anything that JSON has."""
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    time: str = dataclasses.field(default_factory=now)

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise SpecError(unknown_name("type of event", self.type, TYPES))
        if self.severity not in _SEVERITIES:
            raise SpecError(unknown_name("severity", self.severity, _SEVERITIES))

    @property
    def fold_key(self) -> str:
        return "\n".join((self.type, self.application, self.subject, self.severity))


_DATA = ("what", "severity", "who", "why", "next", "application", "model", "version", "segment")


def to_cloud_event(event: Event) -> dict[str, Any]:
    """The event as a CloudEvents document: JSON values only, at most MAX_BYTES as JSON. Numbers that JSON lacks (NaN,
    infinities) become null; texts that are too long are cut."""
    data: dict[str, Any] = {name: shorten(encodable(getattr(event, name)), 4000) for name in _DATA}
    data["numbers"] = {encodable(str(name)): _to_json(value) for name, value in event.numbers.items()}
    data["details"] = _to_json(event.details)
    document = {
        "specversion": "1.0",
        "id": _attribute(event.id),
        "source": f"/raymlops/applications/{urllib.parse.quote(encodable(event.application), safe='')}",
        "type": event.type,
        "subject": _attribute(event.subject),
        "time": event.time,
        "datacontenttype": "application/json",
        "data": data,
    }
    for part in ("details", "numbers"):  # the sentence and the command always fit
        if len(json.dumps(document)) > MAX_BYTES:
            data[part] = {"left_out": f"more than {MAX_BYTES // 1024} KiB"} if part == "details" else {}
    return document


def from_cloud_event(document: Mapping[str, Any]) -> Event:
    """The event of a document that `to_cloud_event` made. Raises SpecError."""
    try:
        data = document["data"]
        return Event(
            type=document["type"],
            subject=document["subject"],
            id=document["id"],
            time=document["time"],
            numbers=data["numbers"],
            details=data["details"],
            **{name: data[name] for name in _DATA},
        )
    except (KeyError, TypeError) as error:
        raise SpecError(f"This is not an event of raymlops: {type(error).__name__}: {error}") from None


def _attribute(text: str) -> str:
    """As CloudEvents allows attributes: not empty, no control characters, no unpaired surrogates."""
    return shorten(to_one_line(encodable(text)), 1000) or "-"


def _to_json(value: Any, depth: int = 8) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth and isinstance(value, Mapping):
        return {encodable(str(key)): _to_json(inner, depth - 1) for key, inner in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_to_json(inner, depth - 1) for inner in value]
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a number of numpy
        return _to_json(value.item(), depth - 1) if depth else str(value)
    return encodable(str(value))
