"""A lease: one writer at a time of a registered model's tags, in a store that has no compare-and-set.

Writers queue by Lamport's bakery algorithm: announce, take a ticket above all others, wait for those before. Each
renews its announcement. One that stays unchanged for LEASE_S, by the clock of a waiting writer, is considered dead
and removed; so clocks need not agree and may jump. A lease has a number above those of all earlier leases.

Guaranteed: of two leases the later has the greater number, and `check` fails for every lease but the greatest. Not
guaranteed, since such a store cannot: a writer that is stopped between `check` and a write, for longer than LEASE_S,
writes late. Readers detect this by the lease's number (raymlops.tracking.history does).
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
_MOST = 1_000_000  # tags of leases to keep since the last lease that wrote an entry
LEASE_S = 5.0
RENEWAL_S = 1.0
PATIENCE_S = 60.0


class LeaseLostError(StorageError):
    """A writer was stopped for so long that another has taken its place."""


@dataclasses.dataclass
class Lease:
    """The right to write, as long as `check` does not fail. `dead` are the numbers of leases whose holders were
    considered dead while this one was acquired."""

    client: mlflow.MlflowClient
    name: str
    identity: str
    number: int = 0
    dead: frozenset[int] = frozenset()

    def check(self) -> None:
        """Raises LeaseLostError if another writer has taken over."""
        tags = _read(self.client, self.name)
        granted = _granted(tags, self.number)
        if ANNOUNCED + self.identity not in tags or self.number != max(granted.values(), default=0):
            raise LeaseLostError(f"Another writer has taken over the history of {self.name!r}")


@contextlib.contextmanager
def hold(client: mlflow.MlflowClient, name: str, floor: int = 0) -> Iterator[Lease]:
    """The lease on a registered model; its number is also above `floor`.

    Raises StorageError if others write for longer than PATIENCE_S.
    """
    ends = time.monotonic() + PATIENCE_S
    lease = None
    while lease is None:
        identity = uuid.uuid4().hex[:12]
        over = threading.Event()
        ticket = _announce(client, name, identity)
        renewal = threading.Thread(
            target=_renew_announcement, args=(client, name, identity, ticket, over), daemon=True
        )
        renewal.start()
        try:
            lease = _wait(client, name, identity, ticket, floor, ends)
            if lease is not None:
                yield lease
        finally:
            over.set()
            renewal.join()
            client.delete_registered_model_tag(name, ANNOUNCED + identity)


def find_writers(tags: Mapping[str, str]) -> list[str]:
    """Announcements of writers, alive or dead."""
    return [key for key in tags if key.startswith(ANNOUNCED)]


def _announce(client: mlflow.MlflowClient, name: str, identity: str) -> int:
    """Take a ticket; all others wait while one writer chooses its number."""
    key, tags = ANNOUNCED + identity, dict[str, str]()
    while key not in tags:  # a writer that stops here may be considered dead
        client.set_registered_model_tag(name, key, json.dumps({"ticket": None}))
        tags = _read(client, name)
    ticket = 1 + max(_ticket(tags[other]) or 0 for other in find_writers(tags))
    client.set_registered_model_tag(name, key, json.dumps({"ticket": ticket, "renewal": 0}))
    return ticket


def _renew_announcement(
    client: mlflow.MlflowClient, name: str, identity: str, ticket: int, over: threading.Event
) -> None:
    """Renew the announcement until the lease ends, or its holder was considered dead."""
    key, count = ANNOUNCED + identity, 0
    while not over.wait(RENEWAL_S):
        count += 1
        with contextlib.suppress(Exception):  # the store is unreachable: the lease ends by itself
            if key not in _read(client, name) or over.is_set():
                return
            client.set_registered_model_tag(name, key, json.dumps({"ticket": ticket, "renewal": count}))


def _wait(
    client: mlflow.MlflowClient, name: str, identity: str, ticket: int, floor: int, ends: float
) -> Lease | None:
    """The lease, once all earlier writers are done or dead; None if this writer was considered dead itself."""
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
    """Write the number of the lease, and check that it is the greatest; None if it is not."""
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
    """None for a writer that is still choosing, or whose announcement cannot be read."""
    try:
        held = json.loads(text)["ticket"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return held if isinstance(held, int) else None


def _granted(tags: Mapping[str, str], floor: int) -> dict[str, int]:
    """Keys of leases -> their numbers; a number far above those in use is ignored: nobody was granted it."""
    found = {key: _GRANTED.fullmatch(key) for key in tags if key.startswith(GRANTED)}
    numbers = {key: int(match[1]) for key, match in found.items() if match}
    return {key: number for key, number in numbers.items() if number <= floor + _MOST}


def _read(client: mlflow.MlflowClient, name: str) -> dict[str, str]:
    return {str(key): str(value) for key, value in dict(client.get_registered_model(name).tags).items()}
