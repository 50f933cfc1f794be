"""The observer that counts what monitored versions see and answer. Each answered row is noted where it is answered, in
a file of the node; its values are counted later, in bulk, in a thread beside, and passed on at the end of each tick."""

import asyncio
import concurrent.futures
import dataclasses
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from raymlops.errors import RaymlopsError, describe_cause
from raymlops.graphs.execution import Watch
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.segments import find_segments
from raymlops.monitoring.tick_counter import OpenTick, TickCounter, WatchedModel
from raymlops.monitoring.ticks import Place, Tick
from raymlops.runtime.observer_queue import ObserverQueue
from raymlops.serving.endpoints.answered_rows import AnsweredRows
from raymlops.serving.endpoints.observers import Told
from raymlops.serving.endpoints.request_ids import HeldRequest, RequestIds
from raymlops.specs.monitoring import Monitoring
from raymlops.tensors import Batch, copy_batch

LOG = logging.getLogger("raymlops.serving")
NAME = "monitoring"
_CORE_SHARE = 0.01
"""Of a core, for counting; a replica that answers more rows than that counts a sample of them."""
_ROW_S, _REQUEST_S = 5e-6, 4e-5
"""CPU time of a row before any was measured, and of a request that is passed to another thread, with what it costs the
answering thread to give way to that one."""
_ADAPT_S, _RELEASE_S = 0.25, 10.0
"""Seconds after which more load makes the sample smaller, and over which less load makes it larger again."""
_SAMPLED_ROWS = 16
"""Of a request that is in the sample, if it has so many."""
_LATE_S = 0.3
"""After the end of a tick, so that requests which wait in the queue are in it."""
_RETRY_S = 30.0
_CLAIMS_S, _CLOSES_S = 1.0, 3.0
_KINDS, _GONE = ("2xx", "4xx", "499", "5xx"), 499


class NodeRun(NamedTuple):
    """One run of a node of a graph, which was answered."""

    slot: int
    batch: Batch
    answer: Batch
    rows: int
    ended: int
    """In nanoseconds of `perf_counter`."""
    size: int
    """Bytes of the batch."""


class Delivery(Protocol):
    """Passes ticks on, in a thread of its own."""

    def put(self, ticks: Sequence[Tick]) -> None: ...

    def claim(self, keys: Sequence[int]) -> "concurrent.futures.Future[set[int]]":
        """Keys of requests -> those that another replica counts."""

    def close(self, within_s: float) -> bool:
        """Whether all was taken."""

    @property
    def lost(self) -> int:
        """Counted rows that it gave up, as there was no room for them."""


class TickObserver:
    """Counts requests of endpoints, and runs of nodes. `places` are what is counted, by path, those of endpoints by the
    endpoint's name; `load` gives a reference by its digest."""

    observes = "inferences"

    def __init__(
        self,
        spec: Monitoring,
        places: Mapping[str, Place],
        rows: AnsweredRows,
        delivery: Delivery,
        load: Callable[[str], Reference],
        replica: str = "",
    ) -> None:
        self.rows, self._spec, self._delivery, self._load = rows, spec, delivery, load
        self.paths = list(places)
        self.aside = Aside(len(self.paths))
        self.counted = self.left_out = self.retried = self.lost = 0
        self._places = list(places.values())
        self._models: list[WatchedModel | None] = [None] * len(self.paths)
        self._slots = {path: slot for slot, path in enumerate(self.paths)}
        self._ticks: list[OpenTick | None] = [None] * len(self.paths)
        self._counter = TickCounter(spec.tick_seconds, replica)
        self._ids = RequestIds(delivery.claim)
        self._random = np.random.default_rng()
        self._cost_rate = 0.0
        """Seconds a second that it would take to count all rows."""
        self._adapts = time.monotonic() + _ADAPT_S
        self._loads_again = 0.0
        self._due = time.monotonic() + self._find_wait()

    def observe(self, events: Sequence[Any]) -> None:
        """Of `Told` and `NodeRun`."""
        if None in self._models:
            self._load_models()
        offset = time.time() - time.perf_counter_ns() / 1e9
        for event in events:
            if event.__class__ is NodeRun:
                self._add_run(event, offset)
            else:
                self._add_request(event, offset)
        self._counter.bound()
        self._work()

    def tick(self) -> None:
        if None in self._models:
            self._load_models()
        self._work()

    def close(self) -> None:
        self._flush()
        self._resolve(_CLAIMS_S)
        is_told = self._delivery.close(_CLOSES_S)
        self.rows.close(remove=is_told)

    def to_rows(self) -> dict[str, int]:
        """Rows by what became of them."""
        given_up = self._delivery.lost
        return {
            "counted": self.counted - given_up,
            "left_out": self.left_out,
            "retried": self.retried,
            "lost": self.lost + given_up,
        }

    def _add_request(self, told: Told, offset: float) -> None:
        request, ended = told[0], told[2]
        assert request.statistics is not None
        slot = self._slots[request.statistics.name]
        instant = ended / 1e9 + offset
        tick = self._find_tick(slot, instant)
        tick.requests["2xx"] = tick.requests.get("2xx", 0) + 1
        tick.latencies.append(ended - request.arrived)
        batch, rows = request.batch or {}, request.rows
        held = HeldRequest(slot, instant, batch, request.answer or {}, rows, told[3] + told[4])
        given = (request.body_id or request.id) if request.body_id or request.has_id else ""
        if not given or not self._add_given(tick, held, given):
            self._add_rows(tick, held)

    def _add_given(self, tick: OpenTick, held: HeldRequest, given: str) -> bool:
        """Whether a request whose caller gave an id needs no counting now: it is a retry, or waits for what other
        replicas counted."""
        is_known, key = self._ids.is_known(self.paths[held.slot], given, held.batch)
        if is_known:
            tick.answered += held.rows
            tick.retried += held.rows
        return is_known or self._ids.hold(key, held)

    def _add_run(self, run: NodeRun, offset: float) -> None:
        instant = run.ended / 1e9 + offset
        tick = self._find_tick(run.slot, instant)
        tick.requests["2xx"] = tick.requests.get("2xx", 0) + 1
        self._add_rows(tick, HeldRequest(run.slot, instant, run.batch, run.answer, run.rows, run.size))

    def _find_tick(self, slot: int, instant: float) -> OpenTick:
        tick = self._ticks[slot]
        if tick is None or not tick.start <= instant < tick.start + tick.seconds:
            model = self._models[slot] or WatchedModel(self._places[slot])
            tick = self._ticks[slot] = self._counter.open(model, instant)
        return tick

    def _resolve(self, within_s: float = 0.0) -> None:
        """Count requests with ids of the last tick, unless another replica does, and pass them on."""
        resolved = list(self._ids.resolve(within_s))
        for held, is_elsewhere in resolved:
            tick = self._find_tick(held.slot, held.instant)
            if is_elsewhere:
                tick.answered += held.rows
                tick.retried += held.rows
            else:
                self._add_rows(tick, held)
        if resolved:
            self._pass_on()

    def _add_rows(self, tick: OpenTick, request: HeldRequest) -> None:
        """Rows that were answered; of many in one request, those that the sample takes."""
        slot, instant, batch, answer, rows, size = request
        tick.answered += rows
        tick.first, tick.last = min(tick.first or instant, instant), max(tick.last, instant)
        if self._models[slot] is None:  # its reference is not here yet
            tick.lost += rows
            return
        taken = self.aside.find_taken(rows)
        if taken < rows:
            chosen = self._random.choice(rows, taken, replace=False, shuffle=False)
            batch, answer = _take(batch, chosen, rows), _take(answer, chosen, rows)
        tick.add_rows(batch, answer, taken, size)

    def _work(self) -> None:
        now = time.monotonic()
        if now >= self._adapts:
            self._adapt(now)
            self.rows.live()
        self._take_aside()
        self._resolve()
        if now >= self._due:
            self._flush()

    def _adapt(self, now: float) -> None:
        """Set the share of rows that are counted, by the time that counting takes."""
        elapsed = now - self._adapts + _ADAPT_S
        self._adapts = now + _ADAPT_S
        cost = self._counter.cost
        row_s = (cost.seconds + 64 * _ROW_S) / (cost.rows + 64)
        cost.fade(0.97)
        rows, requests = self.aside.take_offered()
        now_rate = (rows * row_s + requests * _REQUEST_S) / elapsed
        kept = math.exp(-elapsed / _RELEASE_S)
        self._cost_rate = max(now_rate, self._cost_rate * kept + now_rate * (1.0 - kept))
        self.aside.share = min(1.0, _CORE_SHARE / max(self._cost_rate, 1e-9))

    def _take_aside(self) -> None:
        """What the answering thread counted itself."""
        for slot, found in self.aside.take():
            tick = self._find_tick(slot, time.time())
            tick.answered += found.left_out + found.lost
            tick.lost += found.lost
            tick.latencies += found.latencies
            for kind, count in found.requests.items():
                if count:
                    tick.requests[kind] = tick.requests.get(kind, 0) + count

    def _flush(self) -> None:
        """A tick has ended."""
        self._due = time.monotonic() + self._find_wait()
        self._ids.end_tick()
        self._pass_on()

    def _pass_on(self) -> None:
        """Pass on all that was counted. Ticks that go on later are added to."""
        self._take_aside()
        self._ticks = [None] * len(self.paths)
        ticks = self._counter.take()
        for one in ticks:
            if not one.place.segment:
                self.counted += one.rows
                self.left_out += one.left_out
                self.retried += one.retried
                self.lost += one.lost
        if ticks:
            self._delivery.put(ticks)

    def _find_wait(self) -> float:
        """Seconds to the end of this tick."""
        seconds = self._spec.tick_seconds
        return seconds - time.time() % seconds + _LATE_S

    def _load_models(self) -> None:
        """Those that are missing; a store that is away is asked again later."""
        if time.monotonic() < self._loads_again:
            return
        self._loads_again = time.monotonic() + _RETRY_S
        for slot, place in enumerate(self._places):
            if self._models[slot] is None:
                try:
                    opened = self._open(place)
                    self._pass_on()  # what was answered before is in ticks without columns
                    self._models[slot] = opened
                except (RaymlopsError, OSError) as error:
                    LOG.error("%s is not counted yet: %s", place.path, describe_cause(error))

    def _open(self, place: Place) -> WatchedModel:
        if not place.reference:
            return WatchedModel(place)
        reference = self._load(place.reference)
        segments = find_segments(reference, self._spec.segments or None)
        return WatchedModel(place, reference, segments)


def _take(batch: Batch, chosen: Any, rows: int) -> Batch:
    return {
        name: values[chosen] if values.ndim and len(values) == rows else values
        for name, values in batch.items()
    }


@dataclasses.dataclass(slots=True)
class Counted:
    """Of one slot. `left_out` and `lost` are rows; `requests` are by class of status."""

    left_out: int = 0
    lost: int = 0
    requests: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    latencies: list[int] = dataclasses.field(default_factory=list)


class Aside:
    """What the answering thread counts itself, as it takes less than passing it on: requests that are left out of the
    sample, refused or dropped. Written by that thread, and taken by the observer's, which sets `share`."""

    def __init__(self, slots: int) -> None:
        self.share = 1.0
        """Probability of a row to be counted."""
        self.slots = [Counted() for _ in range(slots)]
        self._told = [Counted() for _ in range(slots)]
        self.rows, self.requests = 0, 0.0
        """Offered: rows, and the requests that would be passed on to count all of them."""

    def chooses(self, slot: int, rows: int, latency: int | None) -> bool:
        """Whether an answered request is in the sample."""
        share = self.share
        self.rows += rows
        if rows <= _SAMPLED_ROWS:
            self.requests += 1.0
            if share >= 1.0 or random.random() < share:  # noqa: S311
                return True
        else:
            taken = self.find_taken(rows)
            self.requests += rows / taken
            if share >= 1.0 or random.random() * taken < rows * share:  # noqa: S311
                return True
        counted = self.slots[slot]
        counted.left_out += rows
        counted.requests["2xx"] += 1
        if latency is not None:
            counted.latencies.append(latency)
        return False

    def find_taken(self, rows: int) -> int:
        """Rows of a request in the sample that are counted: some of many, so that each row of any request has the same
        probability, and a request takes a time that does not depend on its rows."""
        return rows if self.share >= 1.0 else min(rows, max(_SAMPLED_ROWS, round(rows * self.share)))

    def refuse(self, slot: int, status: int) -> None:
        kind = "499" if status == _GONE else "4xx" if status // 100 == 4 else "5xx"
        self.slots[slot].requests[kind] += 1

    def take(self) -> list[tuple[int, Counted]]:
        """All since the last call, by slot. Numbers only grow, so that none is missed while the other thread counts."""
        found = []
        for slot, counted in enumerate(self.slots):
            told = self._told[slot]
            requests = {kind: count - told.requests[kind] for kind, count in counted.requests.items()}
            new = Counted(counted.left_out - told.left_out, counted.lost - told.lost, requests)
            if new.left_out or new.lost or any(requests.values()):
                new.latencies, counted.latencies = counted.latencies, []
                told.left_out, told.lost = told.left_out + new.left_out, told.lost + new.lost
                told.requests = {kind: count + requests[kind] for kind, count in told.requests.items()}
                found.append((slot, new))
        return found

    def take_offered(self) -> tuple[int, float]:
        found = self.rows, self.requests
        self.rows, self.requests = 0, 0.0
        return found


class TickQueue(ObserverQueue[Any]):
    """What waits for a TickObserver. Notes rows in the node's file when they are put, which is before their answer is
    written: of a killed replica, the loss is never understated."""

    reads_tensors = False

    def __init__(self, observer: TickObserver, most_events: int = 8192) -> None:
        super().__init__(NAME, observer, lambda what: what, most_events)
        self._ticks, self._aside = observer, observer.aside
        self._counts, self._slots = observer.rows.counts, observer.rows.slots
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = 0

    def start(self) -> None:
        """On the event loop that answers."""
        self._loop, self._owner = asyncio.get_running_loop(), threading.get_ident()
        super().start()

    def put(self, what: Any, size: int) -> None:
        request, status, ended = what[:3]
        slot = self._slots.get(request.statistics.name)
        if slot is None:
            return  # of no model, or loaded on demand
        if status != 200:
            self._aside.refuse(slot, status)
            return
        self._counts[slot] += request.rows
        if self._aside.chooses(slot, request.rows, ended - request.arrived):
            super().put(what, size)

    def watch(self, path: str, *, copies: bool) -> Watch:
        """Takes the runs of a node of a graph, from any thread; `copies` if others may change its tensors later."""
        slot = self._slots[path]

        def take(batch: Batch, answer: Batch) -> None:
            ended = time.perf_counter_ns()
            rows = next((len(values) for values in batch.values() if values.ndim), 0)
            if copies:
                batch, answer = copy_batch(batch), copy_batch(answer)
            size = sum([values.nbytes for values in batch.values()])
            run = NodeRun(slot, batch, answer, rows, ended, size)
            if threading.get_ident() == self._owner or self._loop is None:
                self._put_run(run, size)
            else:
                self._loop.call_soon_threadsafe(self._put_run, run, size)

        return take

    def to_rows(self) -> dict[str, int]:
        return self._ticks.to_rows()

    def _put_run(self, run: NodeRun, size: int) -> None:
        self._counts[run.slot] += run.rows
        if self._aside.chooses(run.slot, run.rows, None):
            super().put(run, size)

    def _drop(self, what: Any) -> None:
        is_run = what.__class__ is NodeRun
        slot = what.slot if is_run else self._slots[what[0].statistics.name]
        self._aside.slots[slot].lost += what.rows if is_run else what[0].rows
