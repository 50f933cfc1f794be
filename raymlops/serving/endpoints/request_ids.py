"""Requests whose callers gave an id, until the end of a tick: one that comes again, here or in another replica, counts
once. Memory is bounded; requests beyond it are compared within this replica only."""

import collections
import concurrent.futures
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from raymlops.tensors import Batch

_KNOWN = 2**16
"""Requests of a tick that are remembered; the oldest are forgotten."""
_HELD, _HELD_BYTES = 2048, 8 * 2**20
_PATIENCE_S = 5.0
"""For the answer which of them another replica has counted; after that, all count."""

Claim = Callable[[Sequence[int]], "concurrent.futures.Future[set[int]]"]
"""Keys of requests -> those that another replica counts."""


class HeldRequest(NamedTuple):
    """One that is counted once it is known that no other replica counts it."""

    slot: int
    instant: float
    batch: Batch
    answer: Batch
    rows: int
    size: int
    """Bytes of both, about."""


class RequestIds:
    """The requests of one tick after another; used by one thread."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._known: collections.OrderedDict[int, None] = collections.OrderedDict()
        self._held: dict[int, HeldRequest] = {}
        self._bytes = 0
        self._asked: list[tuple[float, concurrent.futures.Future[set[int]], dict[int, HeldRequest]]] = []

    def is_known(self, path: str, given: str, batch: Batch) -> tuple[bool, int]:
        """Whether a request of this id with these rows came before, and its key. Some clients send all their requests
        with one id."""
        key = make_key(path, given, batch)
        if key in self._known:
            return True, key
        self._known[key] = None
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return False, key

    def hold(self, key: int, request: HeldRequest) -> bool:
        """Whether there is room for it until the tick's end."""
        if len(self._held) >= _HELD or self._bytes + request.size > _HELD_BYTES:
            return False
        self._held[key] = request
        self._bytes += request.size
        return True

    def end_tick(self) -> None:
        """Ask which requests of this tick other replicas count."""
        known, held = self._known, self._held
        self._known, self._held, self._bytes = collections.OrderedDict(), {}, 0
        if known:
            self._asked.append((time.monotonic() + _PATIENCE_S, self._claim(list(known)), held))

    def resolve(self, within_s: float = 0.0) -> Iterator[tuple[HeldRequest, bool]]:
        """Requests of earlier ticks of which it is known now, each with whether another replica counts it."""
        if within_s and self._asked:
            concurrent.futures.wait([future for _, future, _ in self._asked], within_s)
        waiting = []
        for ends, future, held in self._asked:
            if not future.done() and time.monotonic() < ends and not within_s:
                waiting.append((ends, future, held))
                continue
            others = future.result() if future.done() and not future.exception() else set()
            for key, request in held.items():
                yield request, key in others
        self._asked = waiting


def make_key(path: str, given: str, batch: Batch) -> int:
    """64 bits of an id and the rows, the same in all replicas."""
    held = hashlib.blake2b(f"{path}\0{given}".encode("utf-8", "surrogatepass"), digest_size=8)
    for values in batch.values():
        held.update(_to_bytes(values))
    return int.from_bytes(held.digest(), "little")


def _to_bytes(values: Any) -> bytes:
    if values.dtype.kind != "O":
        return values.tobytes()  # type: ignore[no-any-return]
    return repr(values.ravel().tolist()).encode("utf-8", "surrogatepass")
