"""One writer at a time of a registered model's tags, over a store that has no compare-and-set.

Writers queue by Lamport's bakery: announce, take a ticket above all others, wait for those before. Each renews its
announcement; one that stays the same for LEASE_S, by the clock of whoever waits for it, is taken for dead and removed,
so that clocks need not agree and may jump. A lease has a number above those of all leases before it.

What holds: of two leases the later has the greater number, and `check` fails for every lease but the greatest. What
cannot hold over such a store: a writer that is stopped between `check` and a write, for longer than LEASE_S, writes
late. Its number tells: readers of what it wrote go by the number (raymlops.tracking.history does).
"""

import contextlib
import dataclasses
import json
import random
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping

import mlflow

from raymlops.errors import StorageError

ANNOUNCED = "raymlops.writing."
GRANTED = "raymlops.lease."
_GRANTED = re.compile(re.escape(GRANTED) + r"([0-9]{1,18})\.[0-9a-f]+")
_MOST = 1_000_000  # leases since the last that left an entry
LEASE_S = 5.0
BEAT_S = 1.0
PATIENCE_S = 60.0


class LeaseLostError(StorageError):
    """A writer was stopped for so long that another has taken its place."""


@dataclasses.dataclass
class Lease:
    """The right to write, as long as `check` does not fail. `dead` are the numbers of leases whose holders were taken
    for dead on the way to this one."""

    client: mlflow.MlflowClient
    name: str
    identity: str
    number: int = 0
    dead: frozenset[int] = frozenset()

    def check(self) -> None:
        """Raises LeaseLostError when another writer has taken over."""
        tags = _read(self.client, self.name)
        granted = _granted(tags, self.number)
        if ANNOUNCED + self.identity not in tags or self.number != max(granted.values(), default=0):
            raise LeaseLostError(f"Another writer has taken over the history of {self.name!r} meanwhile")


@contextlib.contextmanager
def hold(client: mlflow.MlflowClient, name: str, floor: int = 0) -> Iterator[Lease]:
    """The lease on a registered model; its number is above `floor` too.

    Raises StorageError when others write for PATIENCE_S.
    """
    ends = time.monotonic() + PATIENCE_S
    lease = None
    while lease is None:
        identity = uuid.uuid4().hex[:12]
        over = threading.Event()
        ticket = _announce(client, name, identity)
        beat = threading.Thread(target=_beat, args=(client, name, identity, ticket, over), daemon=True)
        beat.start()
        try:
            lease = _wait(client, name, identity, ticket, floor, ends)
            if lease is not None:
                yield lease
        finally:
            over.set()
            beat.join()
            client.delete_registered_model_tag(name, ANNOUNCED + identity)


def find_writers(tags: Mapping[str, str]) -> list[str]:
    """Announcements of writers, alive or not."""
    return [key for key in tags if key.startswith(ANNOUNCED)]


def _announce(client: mlflow.MlflowClient, name: str, identity: str) -> int:
    """Take a ticket; while one chooses, all others wait for it."""
    key, tags = ANNOUNCED + identity, dict[str, str]()
    while key not in tags:  # who is stopped here may be taken for dead
        client.set_registered_model_tag(name, key, json.dumps({"ticket": None}))
        tags = _read(client, name)
    ticket = 1 + max(_ticket(tags[other]) or 0 for other in find_writers(tags))
    client.set_registered_model_tag(name, key, json.dumps({"ticket": ticket, "beat": 0}))
    return ticket


def _beat(client: mlflow.MlflowClient, name: str, identity: str, ticket: int, over: threading.Event) -> None:
    """Renew the announcement until the lease is over, or was taken for dead."""
    key, count = ANNOUNCED + identity, 0
    while not over.wait(BEAT_S):
        count += 1
        with contextlib.suppress(Exception):  # of a store that is away: the lease ends of itself
            if key not in _read(client, name) or over.is_set():
                return
            client.set_registered_model_tag(name, key, json.dumps({"ticket": ticket, "beat": count}))


def _wait(
    client: mlflow.MlflowClient, name: str, identity: str, ticket: int, floor: int, ends: float
) -> Lease | None:
    """The lease once all before are done or dead; None when this writer was taken for dead itself."""
    mine = ANNOUNCED + identity
    seen: dict[str, tuple[str, float]] = {}
    dead: set[str] = set()
    while True:
        tags = _read(client, name)
        if mine not in tags:
            return None
        now = time.monotonic()
        before = [
            key for key in find_writers(tags) if key != mine and _is_before(tags[key], key, ticket, mine)
        ]
        for key in before:
            if key not in seen or seen[key][0] != tags[key]:
                seen[key] = tags[key], now
            elif now - seen[key][1] > LEASE_S:
                client.delete_registered_model_tag(name, key)
                dead.add(key.removeprefix(ANNOUNCED))
        before = [key for key in before if key.removeprefix(ANNOUNCED) not in dead]
        if not before:
            lease = _grant(client, name, identity, floor, dead)
            if lease is not None:
                return lease
        if now > ends:
            raise StorageError(
                f"Someone else is writing the history of {name!r}; waited {PATIENCE_S:.0f} s, try again"
            )
        time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - to part two writers, not to hide anything


def _grant(client: mlflow.MlflowClient, name: str, identity: str, floor: int, dead: set[str]) -> Lease | None:
    """Write the number of the lease down, and look whether it is the greatest; None when it is not to be."""
    granted = _granted(_read(client, name), floor)
    number = 1 + max(floor, *granted.values(), 0)
    key = f"{GRANTED}{number:012d}.{identity}"
    client.set_registered_model_tag(name, key, "")
    tags = _read(client, name)
    others = [held for other, held in _granted(tags, floor).items() if other != key]
    if ANNOUNCED + identity not in tags or max(others, default=0) >= number:
        client.delete_registered_model_tag(name, key)
        return None
    for other in granted:
        client.delete_registered_model_tag(name, other)
    numbers = {held for other, held in granted.items() if other.rpartition(".")[2] in dead}
    return Lease(client, name, identity, number, frozenset(numbers))


def _is_before(text: str, key: str, ticket: int, mine: str) -> bool:
    held = _ticket(text)
    return held is None or (held, key) < (ticket, mine)


def _ticket(text: str) -> int | None:
    """None for one that still chooses, or whose announcement cannot be read."""
    try:
        held = json.loads(text)["ticket"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return held if isinstance(held, int) else None


def _granted(tags: Mapping[str, str], floor: int) -> dict[str, int]:
    """Keys of leases -> their numbers; one that is far beyond those in use was not granted to anybody."""
    found = {key: _GRANTED.fullmatch(key) for key in tags if key.startswith(GRANTED)}
    numbers = {key: int(match[1]) for key, match in found.items() if match}
    return {key: number for key, number in numbers.items() if number <= floor + _MOST}


def _read(client: mlflow.MlflowClient, name: str) -> dict[str, str]:
    return {str(key): str(value) for key, value in dict(client.get_registered_model(name).tags).items()}
