"""A message: an event, or the newest of several repeats with their number; as a document and as text. Sends nothing."""

import dataclasses
from typing import Any

from raymlops.errors import shorten, to_one_line
from raymlops.events.event import Event, from_cloud_event, to_cloud_event

_MOST_IDS = 100
"""Ids of repeats that a message remembers, so that an event which is sent again is not counted again."""


@dataclasses.dataclass(frozen=True)
class Message:
    event: Event
    """The newest; with the id of the first, which stays while the message is sent again and again."""
    count: int = 1
    since: str = ""
    """The time of the first of several."""
    queued: float = 0.0
    """Unix seconds of the first."""
    ids: tuple[str, ...] = ()
    dropped: int = 0
    """How many messages were dropped before this one, since they waited too long or were too many."""

    def fold(self, event: Event) -> "Message":
        """With one more event; unchanged if it was already counted."""
        if event.id in self.ids:
            return self
        return dataclasses.replace(
            self,
            event=dataclasses.replace(event, id=self.event.id),
            count=self.count + 1,
            ids=(*self.ids, event.id)[-_MOST_IDS:],
        )


def start_message(event: Event, at: float) -> Message:
    return Message(event, since=event.time, queued=at, ids=(event.id,))


def to_cloud_document(message: Message) -> dict[str, Any]:
    """The CloudEvents document that channels send; `data` also has what folding and the spool add."""
    document = to_cloud_event(message.event)
    document["data"] |= {"count": message.count, "since": message.since, "dropped": message.dropped}
    return document


def to_json(message: Message) -> dict[str, Any]:
    """As kept on disk."""
    return {
        "event": to_cloud_event(message.event),
        "count": message.count,
        "since": message.since,
        "queued": message.queued,
        "ids": list(message.ids),
        "dropped": message.dropped,
    }


def from_json(held: Any) -> Message:
    """Raises SpecError, KeyError, TypeError or ValueError for what is not a message."""
    return Message(
        from_cloud_event(held["event"]),
        int(held["count"]),
        str(held["since"]),
        float(held["queued"]),
        tuple(str(one) for one in held["ids"]),
        int(held["dropped"]),
    )


def write_title(message: Message, most: int = 150) -> str:
    """One line of at most `most` characters."""
    event = message.event
    mark = "PAGE " if event.severity == "page" else ""
    count = f" ({message.count} times)" if message.count > 1 else ""
    return shorten(to_one_line(f"{mark}{event.subject}: {event.what}"), most - len(count)) + count


def write_text(message: Message) -> str:
    """All that a person needs, as plain text of some lines."""
    event = message.event
    name = " ".join(part for part in (event.model, event.version and f"version {event.version}") if part)
    lines = [
        event.what,
        "",
        *(f"{key}: {value:.6g}" for key, value in event.numbers.items() if isinstance(value, int | float)),
        event.why and f"why: {event.why}",
        event.who and f"who: {event.who}",
        name and f"model: {name}",
        event.segment and f"segment: {event.segment}",
        f"when: {event.time}" + (f", {message.count} times since {message.since}" if message.count > 1 else ""),
        f"{event.type}, id {event.id}",
        f"{message.dropped} earlier messages of this channel were dropped" if message.dropped else "",
        event.next and f"Next: {event.next}",
    ]  # fmt: skip
    return "\n".join(line for place, line in enumerate(lines) if line or place == 1)
