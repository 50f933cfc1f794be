"""The messages that wait for one channel: repeats folded, bounded, each kept until it is delivered. Sends nothing.

A message is a file `STAMP-SEVERITY-KEY.json`: the milliseconds by which messages are ordered, and a digest of what
makes events repeats of one another. It goes from `pending`, where repeats are folded into it, to `sending`, where it
stays as it is until the receiver has it, so that an attempt after a crash sends the same again under the same id.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from raymlops.errors import SpecError
from raymlops.events.event import Event
from raymlops.events.message import Message, from_json, start_message, to_json
from raymlops.events.spool_storage import Part, SpoolStorage
from raymlops.specs.notify import Folding, Spooling

_LOG = logging.getLogger(__name__)
_DELIVERED, _DROPPED = "delivered.json", "dropped.json"
_MOST_IDS = 2000
"""Ids of delivered events that are remembered: those that are emitted again are not sent again."""
_MOST_REFUSED = 100
_IDLE_S = 5.0
"""How often a spool without messages is looked at, for those that ended processes left."""


@dataclasses.dataclass(frozen=True)
class Taken:
    """A message that is being sent, and its name in `sending`."""

    name: str
    message: Message


@dataclasses.dataclass(frozen=True)
class Waiting:
    """What a spool holds: numbers of messages, and the Unix seconds of the oldest that waits."""

    messages: int
    refused: int
    dropped: int
    oldest: float | None


def find_due(queued: float, sent: float | None, at: float, fold: Folding) -> float:
    """When a message may be sent, in Unix seconds: after a time to gather repeats, and not within the window of the
    message before. Times in the future, of a clock that was set back, do not count."""
    due = min(queued, at) + fold.gather_s
    return due if sent is None or sent > at else max(due, sent + fold.window_s)


class Spool:
    def __init__(self, storage: SpoolStorage, limits: Spooling, fold: Folding) -> None:
        self.storage, self._limits, self._fold = storage, limits, fold
        self._delivered: tuple[bytes | None, dict[str, Any]] = (None, {"sent": {}, "ids": []})

    def put(self, event: Event, at: float) -> None:
        """Keep an event until it is delivered, unless it already was. Raises OSError if it cannot be kept."""
        end = f"-{event.severity}-{_digest(event.fold_key)}.json"
        with self.storage.lock():
            if event.id in self._read_delivered()["ids"] or self._is_sending(event.id):
                return
            names = self.storage.list("pending")
            name = next((name for name in names if name.endswith(end)), None)
            held = self._read(name, "pending") if name else None
            if name is None:
                self._make_room(names)
                # in the order in which they came, also within a millisecond
                last = max((int(one[:15]) for one in names if one[:15].isdecimal()), default=0)
                name = f"{max(int(at * 1000), last + 1):015d}{end}"
            self._write(name, held.fold(event) if held else start_message(event, at), "pending")

    def take(self, at: float, *, at_once: bool = False) -> tuple[Taken | None, float]:
        """The next message whose time has come, which is then `sending`; without one None, and the seconds until the
        next. `at_once` does not wait for repeats."""
        with self.storage.lock():
            sent = self._read_delivered()["sent"]
            soonest = at + _IDLE_S
            for name, part in self._in_order():
                due = (
                    at
                    if part == "sending" or at_once
                    else find_due(_stamp(name), sent.get(_key(name)), at, self._fold)
                )
                if due > at:
                    soonest = min(soonest, due)
                    continue
                message = self._read(name, part)
                if message is None:
                    continue
                if at - message.queued > self._limits.hours * 3600:
                    self._drop(name, part, f"it waited more than {self._limits.hours:g} hours")
                    continue
                if part == "pending":
                    self.storage.move(name, part, name, "sending")
                return Taken(name, dataclasses.replace(message, dropped=self._read_dropped())), 0.0
        return None, max(0.01, soonest - at)

    def finish(self, taken: Taken, at: float) -> None:
        """It was delivered."""
        with self.storage.lock():
            held = self._read_delivered()
            oldest = at - self._fold.window_s
            held["sent"] = {key: when for key, when in held["sent"].items() if when > oldest} | {
                _key(taken.name): at
            }
            held["ids"] = [*held["ids"], *taken.message.ids][-_MOST_IDS:]
            self._note(_DELIVERED, held)
            self.storage.delete(taken.name, "sending")
            if taken.message.dropped:
                self._note(_DROPPED, max(0, self._read_dropped() - taken.message.dropped))

    def put_back(self, taken: Taken, at: float) -> None:
        """It was not delivered, several times. It goes behind the others: a message that a receiver cannot handle does
        not keep them waiting."""
        with self.storage.lock():
            last = max((int(name[:15]) for name, _ in self._in_order()), default=0)
            stamp = max(int(at * 1000), last + 1)
            self.storage.move(taken.name, "sending", f"{stamp:015d}{taken.name[15:]}", "sending")

    def refuse(self, taken: Taken) -> None:
        """The receiver will never take it: keep it for people to look at."""
        with self.storage.lock():
            for name in sorted(self.storage.list("refused"))[: -_MOST_REFUSED + 1]:
                self.storage.delete(name, "refused")
            self.storage.move(taken.name, "sending", taken.name, "refused")

    def count(self) -> Waiting:
        with self.storage.lock():
            found = list(self._in_order())
            messages = [message for name, part in found[:1] if (message := self._read(name, part))]
            return Waiting(
                len(found),
                len(self.storage.list("refused")),
                self._read_dropped(),
                messages[0].queued if messages else None,
            )

    def _in_order(self) -> Iterator[tuple[str, Part]]:
        parts: tuple[Part, ...] = ("sending", "pending")
        found = [(name, part) for part in parts for name in self.storage.list(part)]
        # A name of another form is none of ours.
        yield from sorted(
            (name, part) for name, part in found if name[:15].isdecimal() and name.count("-") == 2
        )

    def _make_room(self, names: list[str]) -> None:
        """The oldest notes go first, then the oldest pages; none that is being sent."""
        excess = len(names) + len(self.storage.list("sending")) + 1 - self._limits.messages
        for name in sorted(names, key=lambda name: (name[16:21] == "page-", name))[: max(0, excess)]:
            self._drop(name, "pending", f"more than {self._limits.messages} messages wait")

    def _drop(self, name: str, part: Part, why: str) -> None:
        message = self._read(name, part)
        self.storage.delete(name, part)
        if message is not None:
            self._note(_DROPPED, self._read_dropped() + message.count)
            _LOG.error("A message was dropped, since %s: %s", why, message.event.what)

    def _is_sending(self, identity: str) -> bool:
        held = (self._read(name, "sending") for name in self.storage.list("sending"))
        return any(message and identity in message.ids for message in held)

    def _read(self, name: str, part: Part) -> Message | None:
        data = self.storage.read(name, part)
        if data is None:
            return None
        try:
            return from_json(json.loads(data))
        except (SpecError, ValueError, KeyError, TypeError):
            # Damaged, or of a later release whose types of events this one does not know.
            _LOG.error("%s in the spool is not a message of this release; it is kept among the refused", name)
            self.storage.move(name, part, name, "refused")
            return None

    def _write(self, name: str, message: Message, part: Part) -> None:
        self.storage.write(name, json.dumps(to_json(message)).encode(), part)

    def _note(self, name: str, held: Any) -> None:
        """On a full disk without it: a message that was delivered must not be sent again for ever."""
        try:
            self.storage.write(name, json.dumps(held).encode())
        except OSError as error:
            _LOG.error("%s of a spool cannot be written: %s", name, error)

    def _read_delivered(self) -> dict[str, Any]:
        """Ids of messages that were delivered, and when each key last was; a copy may be changed and written."""
        data = self.storage.read(_DELIVERED)
        if data != self._delivered[0]:
            held = _parse(data)
            usable = (
                isinstance(held, dict)
                and isinstance(held.get("sent"), dict)
                and isinstance(held.get("ids"), list)
            )
            self._delivered = (data, held if usable else {"sent": {}, "ids": []})
        return dict(self._delivered[1])

    def _read_dropped(self) -> int:
        held = _parse(self.storage.read(_DROPPED))
        return held if isinstance(held, int) else 0


def _parse(data: bytes | None) -> Any:
    try:
        return json.loads(data) if data else None
    except ValueError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:24]


def _stamp(name: str) -> float:
    """Unix seconds."""
    return int(name[:15]) / 1000


def _key(name: str) -> str:
    """Severity and digest."""
    return name[16:].removesuffix(".json")
