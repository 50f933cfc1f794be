"""The observer that counts what monitored versions see and answer. Each answered row is noted where it is answered, in
a file of the node; its values are counted later, in bulk, in a thread beside, and passed on at the end of each tick."""

import asyncio
import concurrent.futures
import logging
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
from raymlops.serving.endpoints.request_ids import HeldRequest, RequestIds, is_in_sample
from raymlops.specs.serving import Monitoring
from raymlops.tensors import Batch, copy_batch

LOG = logging.getLogger("raymlops.serving")
NAME = "monitoring"
_CORE_SHARE = 0.01
"""Of a core, for counting; a replica that answers more rows than that counts a sample of them."""
_ROW_S = 5e-6
"""CPU time of a row before any was measured."""
_ADAPT_S = 1.0
_SAMPLED_ROWS = 16
"""Of a request that is in the sample, if it has so many."""
_LATE_S = 0.3
"""After the end of a tick, so that requests which wait in the queue are in it."""
_RETRY_S = 30.0
_CLAIMS_S, _CLOSES_S = 1.0, 3.0
_CLASSES = {2: "2xx", 4: "4xx", 5: "5xx"}
_GONE = 499


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
        self.dropped = [0] * len(self.paths)
        """Rows by slot that did not fit into the queue; written by the answering thread."""
        self.counted = self.left_out = self.retried = self.lost = 0
        self._places = list(places.values())
        self._models: list[WatchedModel | None] = [None] * len(self.paths)
        self._slots = {path: slot for slot, path in enumerate(self.paths)}
        self._ticks: list[OpenTick | None] = [None] * len(self.paths)
        self._told_dropped = [0] * len(self.paths)
        self._counter = TickCounter(spec.tick_seconds, replica)
        self._ids = RequestIds(delivery.claim)
        self._random = np.random.default_rng()
        self._share, self._offered, self._rate = 1.0, 0, 0.0
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
        dropped, given_up = sum(self.dropped) - sum(self._told_dropped), self._delivery.lost
        return {
            "counted": self.counted - given_up,
            "left_out": self.left_out,
            "retried": self.retried,
            "lost": self.lost + dropped + given_up,
        }

    def _add_request(self, told: Told, offset: float) -> None:
        request, status, ended = told[:3]
        counted = request.statistics
        slot = self._slots.get(counted.name) if counted is not None else None
        if slot is None:
            return  # of no model, or loaded on demand
        instant = ended / 1e9 + offset
        tick = self._find_tick(slot, instant)
        kind = "499" if status == _GONE else _CLASSES.get(status // 100, "5xx")
        tick.requests[kind] = tick.requests.get(kind, 0) + 1
        if status != 200:
            return
        tick.latencies.append(ended - request.arrived)
        batch, rows = request.batch or {}, request.rows
        held = HeldRequest(slot, instant, batch, request.answer or {}, rows, told[3] + told[4])
        given = (request.body_id or request.id) if request.body_id or request.has_id else ""
        if given and self._add_given(tick, held, given):
            return
        self._add_rows(tick, held, is_chosen=bool(given))

    def _add_given(self, tick: OpenTick, held: HeldRequest, given: str) -> bool:
        """Whether a request whose caller gave an id needs no counting now: it is a retry, waits for what other replicas
        counted, or is left out of the sample; a retry is in the sample if the first one is."""
        if self._samples(held.slot) and not is_in_sample(given, held.batch, self._share):
            tick.answered += held.rows
            self._offered += held.rows
            return True
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
                self._add_rows(tick, held, is_chosen=True)
        if resolved:
            self._pass_on()

    def _add_rows(self, tick: OpenTick, request: HeldRequest, *, is_chosen: bool = False) -> None:
        """Rows that were answered; those of a large load are counted in part, unless they were chosen already."""
        slot, instant, batch, answer, rows, size = request
        tick.answered += rows
        tick.first, tick.last = min(tick.first or instant, instant), max(tick.last, instant)
        if self._models[slot] is None:  # its reference is not here yet
            tick.lost += rows
            return
        self._offered += rows
        if self._samples(slot) and not is_chosen:
            batch, answer, rows = self._sample(batch, answer, rows)
        if rows:
            tick.add_rows(batch, answer, rows, size)

    def _samples(self, slot: int) -> bool:
        model = self._models[slot]
        return self._share < 1.0 and model is not None and model.reference is not None

    def _sample(self, batch: Batch, answer: Batch, rows: int) -> tuple[Batch, Batch, int]:
        """Each row with the same probability: some rows of some requests, as picking any of a request takes a time
        that does not depend on their number."""
        taken = min(rows, max(_SAMPLED_ROWS, round(rows * self._share)))
        if random.random() * taken >= rows * self._share:  # noqa: S311
            return batch, answer, 0
        if taken == rows:
            return batch, answer, rows
        chosen = self._random.choice(rows, taken, replace=False, shuffle=False)
        return _take(batch, chosen, rows), _take(answer, chosen, rows), taken

    def _work(self) -> None:
        now = time.monotonic()
        if now >= self._adapts:
            self._adapt(now)
            self.rows.live()
        self._resolve()
        if now >= self._due:
            self._flush()

    def _adapt(self, now: float) -> None:
        """Set the share of rows that are counted, by the time that counting took."""
        elapsed = now - self._adapts + _ADAPT_S
        self._adapts = now + _ADAPT_S
        self._rate += 0.3 * (self._offered / elapsed - self._rate)
        self._offered = 0
        cost = self._counter.cost
        row_s = (cost.seconds + 64 * _ROW_S) / (cost.rows + 64)
        cost.fade(0.9)
        self._share = min(1.0, _CORE_SHARE / max(row_s * self._rate, 1e-9))

    def _flush(self) -> None:
        """A tick has ended."""
        self._due = time.monotonic() + self._find_wait()
        self._ids.end_tick()
        self._pass_on()

    def _pass_on(self) -> None:
        """Pass on all that was counted. Ticks that go on later are added to."""
        for slot, dropped in enumerate(self.dropped):
            new = dropped - self._told_dropped[slot]
            if new:
                self._told_dropped[slot] = dropped
                tick = self._find_tick(slot, time.time())
                tick.answered += new
                tick.lost += new
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


class TickQueue(ObserverQueue[Any]):
    """What waits for a TickObserver. Notes rows in the node's file when they are put, which is before their answer is
    written: of a killed replica, the loss is never understated."""

    reads_tensors = False

    def __init__(self, observer: TickObserver, most_events: int = 8192) -> None:
        super().__init__(NAME, observer, lambda what: what, most_events)
        self._ticks = observer
        self._counts, self._slots = observer.rows.counts, observer.rows.slots
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = 0

    def start(self) -> None:
        """On the event loop that answers."""
        self._loop, self._owner = asyncio.get_running_loop(), threading.get_ident()
        super().start()

    def put(self, what: Any, size: int) -> None:
        if what[1] == 200:
            request = what[0]
            slot = self._slots.get(request.statistics.name)
            if slot is not None:
                self._counts[slot] += request.rows
        super().put(what, size)

    def watch(self, path: str, *, copies: bool) -> Watch:
        """Takes the runs of a node of a graph, from any thread; `copies` if others may change its tensors later."""
        slot = self._slots[path]

        def take(batch: Batch, answer: Batch) -> None:
            ended = time.perf_counter_ns()
            if copies:
                batch, answer = copy_batch(batch), copy_batch(answer)
            rows = next((len(values) for values in batch.values() if values.ndim), 0)
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
        super().put(run, size)

    def _drop(self, what: Any) -> None:
        if what.__class__ is NodeRun:
            self._ticks.dropped[what.slot] += what.rows
        elif what[1] == 200 and (slot := self._slots.get(what[0].statistics.name)) is not None:
            self._ticks.dropped[slot] += what[0].rows
