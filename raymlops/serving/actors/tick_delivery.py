"""Passes the ticks of a replica to the collector of its application, in a thread of its own: while the collector or the
store is away, ticks wait, in bounded memory; nobody waits for them. Also tells of replicas of this node that were
killed."""

import concurrent.futures
import contextlib
import dataclasses
import logging
import pathlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from raymlops.errors import describe_cause
from raymlops.monitoring.tick_store import day_of
from raymlops.monitoring.ticks import NO_REPEATS, Place, Tick, no_counts, sum_ticks
from raymlops.serving.actors.tick_collector import BEAT_S, Message, Sender, pack
from raymlops.serving.endpoints.answered_rows import EndedReplica, find_ended

LOG = logging.getLogger("raymlops.serving")
_MOST_BYTES = 32 * 2**20
"""Of counts that wait; beyond, those of the oldest ticks are lost, and counted as that."""
_MESSAGE_BYTES = 8 * 2**20
_LONGEST_PAUSE_S = 30.0
_LOOK_S = 30.0
"""Between two looks for killed replicas of this node."""
_QUIET_S = 60.0


class Collector(Protocol):
    """Calls a TickCollector elsewhere, and waits for it. Any exception means: not now."""

    def register(self, sender: Sender) -> int: ...
    def beat(self, replica: str) -> bool: ...
    def deliver(self, message: Message) -> int: ...
    def leave(self, replica: str) -> None: ...
    def state_ended(self, found: Sequence[EndedReplica]) -> None: ...
    def claim(self, replica: str, keys: Sequence[int]) -> set[int]: ...


class TickDelivery:
    """`connect` gives the collector, which may take its time."""

    def __init__(self, sender: Sender, connect: Callable[[], Collector]) -> None:
        self._sender, self._connect = sender, connect
        self._collector: Collector | None = None
        self._pending: dict[tuple[int, Place], Tick] = {}
        self._lock, self._awake = threading.Lock(), threading.Event()
        self._claims: list[tuple[Sequence[int], concurrent.futures.Future[set[int]]]] = []
        self._sent: Message | None = None
        self._number = 0
        self._told: dict[str, int] = {}
        self.lost = 0
        """Rows whose counts found no room."""
        self._is_registered = self._is_closing = self._has_left = False
        self._pause = 0.0
        self._looks = self._quiet = 0.0
        self._thread = threading.Thread(target=self._work, name="ticks", daemon=True)
        self._thread.start()

    def put(self, ticks: Sequence[Tick]) -> None:
        """Takes no time that depends on others."""
        with self._lock:
            for tick in ticks:
                key = tick.start, tick.place
                held = self._pending.get(key)
                self._pending[key] = tick if held is None else sum_ticks([held, tick])[0]
            self._bound()
        self._awake.set()

    def claim(self, keys: Sequence[int]) -> "concurrent.futures.Future[set[int]]":
        """Keys of requests -> those that another replica counts; fails if the collector does not answer."""
        future: concurrent.futures.Future[set[int]] = concurrent.futures.Future()
        with self._lock:
            self._claims.append((keys, future))
        self._awake.set()
        return future

    def close(self, within_s: float) -> bool:
        """Pass on what is left. Whether all was taken."""
        self._is_closing = True
        self._awake.set()
        self._thread.join(within_s)
        return self._has_left

    def _bound(self) -> None:
        size = sum(_size(tick) for tick in self._pending.values())
        for key in sorted(self._pending):
            if size <= _MOST_BYTES:
                return
            tick = self._pending.pop(key)
            size -= _size(tick)
            if not tick.place.segment:
                self.lost += tick.rows
                self._pending[key] = dataclasses.replace(
                    tick, counts=no_counts(), rows=0, lost=tick.lost + tick.rows, repeats=NO_REPEATS
                )

    def _work(self) -> None:
        while not self._has_left:
            if not self._is_closing or self._pause:
                self._awake.wait(min(self._pause or BEAT_S, 0.2 if self._is_closing else _LONGEST_PAUSE_S))
            self._awake.clear()
            try:
                self._step()
                self._pause = 0.0
            except BaseException as error:  # the collector, the cluster or the store is away: later again
                self._is_registered = False
                self._pause = min(max(1.0, 2 * self._pause), _LONGEST_PAUSE_S)
                self._tell(error)

    def _step(self) -> None:
        if self._collector is None:
            self._collector = self._connect()
        collector, replica = self._collector, self._sender.replica
        if not self._is_registered:
            written = collector.register(self._sender)
            self._is_registered = True
            if self._sent is not None and self._sent.number <= written:
                self._sent = None
        if time.monotonic() >= self._looks:
            self._looks = time.monotonic() + _LOOK_S
            self._tell_ended(collector)
        self._claim(collector)
        self._deliver(collector)
        if self._is_closing:
            collector.leave(replica)
            self._has_left = True
        elif not collector.beat(replica):
            self._is_registered = False

    def _claim(self, collector: Collector) -> None:
        with self._lock:
            claims, self._claims = self._claims, []
        for keys, future in claims:
            try:
                future.set_result(collector.claim(self._sender.replica, keys))
            except BaseException as error:
                future.set_exception(error)
                raise

    def _deliver(self, collector: Collector) -> None:
        while True:
            if self._sent is None:
                self._sent = self._make_message()
            if self._sent is None:
                return
            collector.deliver(self._sent)
            self._sent = None

    def _make_message(self) -> Message | None:
        """The oldest ticks that wait, of one day."""
        with self._lock:
            if not self._pending:
                return None
            keys = sorted(self._pending)
            day, size = day_of(keys[0][0]), 0
            ticks: list[Tick] = []
            for key in keys:
                if ticks and (day_of(key[0]) != day or size > _MESSAGE_BYTES):
                    break
                ticks.append(self._pending.pop(key))
                size += _size(ticks[-1])
        for tick in ticks:
            if not tick.place.segment:
                self._told[tick.place.path] = self._told.get(tick.place.path, 0) + tick.answered
        self._number += 1
        return Message(self._sender.replica, self._number, day, pack(ticks), dict(self._told))

    def _tell_ended(self, collector: Collector) -> None:
        found = list(find_ended(pathlib.Path(self._sender.folder)))
        if found:
            collector.state_ended([ended for _, ended in found])
            remove_files([str(path) for path, _ in found])

    def _tell(self, error: BaseException) -> None:
        if time.monotonic() >= self._quiet:
            self._quiet = time.monotonic() + _QUIET_S
            LOG.error("counts wait for their store: %s", describe_cause(error))


def remove_files(paths: Sequence[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            pathlib.Path(path).unlink()


def _size(tick: Tick) -> int:
    return tick.counts.nbytes + len(tick.repeats) + 8 * len(tick.latency)
