"""Passes events to an observer in a thread of its own. Never waits for it: events that do not fit are dropped,
counted, and logged at intervals."""

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from raymlops.errors import describe_cause
from raymlops.observers import Event, Observer

LOG = logging.getLogger("raymlops.serving")
LOT = 32
"""Number of events at which the thread is woken: waiting events keep memory allocated, and new requests then use
memory outside the CPU cache, which from some hundred events on costs more than the thread."""
MOST_AT_ONCE = 1024
"""Events that are passed to an observer in one call."""
PAUSE_S = 0.1
"""Longest wait of fewer events: waking the thread for each would cost the answering thread more than the event."""
SMALL = 2**13
"""Bytes of bodies that are not counted: the largest number of waiting events has 64 MiB of them."""
QUIET_S = 60.0
"""Seconds between two log lines about dropped events, or about an observer's failures."""
T = TypeVar("T")


class ObserverQueue(Generic[T]):
    """The events of one observer. `put` is called by one thread; without `start` it passes them on itself."""

    reads_tensors = True
    """Whether the tensors of all requests are read, of all endpoints."""

    def __init__(
        self,
        name: str,
        observer: Observer,
        make_event: Callable[[T], Event],
        most_events: int = 8192,
        most_bytes: int = 64 * 2**20,
    ) -> None:
        """`make_event` turns what is put into an event, in the thread. `most_bytes` limits the bodies of waiting
        requests and answers, except for a single one and for those that are `SMALL`."""
        self.name = name
        self.observes: str = getattr(observer, "observes", "inferences")
        self.delivered = self.dropped = self.failed = 0
        self._observer, self._make_event = observer, make_event
        self._most_events, self._most_bytes = most_events, most_bytes
        self._waiting: collections.deque[tuple[T, int]] = collections.deque()
        self._bytes_put = self._bytes_done = 0
        """Each is written by one thread."""
        self._thread: threading.Thread | None = None
        self._awake = threading.Event()
        self._is_closing = False
        self._told: dict[str, float] = {}

    def put(self, what: T, size: int) -> None:
        """An event whose bodies have `size` bytes. Raises nothing, and waits for nothing."""
        waiting = self._waiting
        count = len(waiting)
        if count >= self._most_events or (size > SMALL and not self._has_room(size)):
            self.dropped += 1
            self._drop(what)
            self._tell("is too slow, or was closed: %d events were dropped so far", self.dropped)
            return
        waiting.append((what, size))
        if self._thread is None:
            self._hand_over()
        elif count == LOT:
            self._awake.set()

    def _drop(self, what: T) -> None:
        """One that nobody will observe; for subclasses."""

    def _has_room(self, size: int) -> bool:
        held = self._bytes_put - self._bytes_done
        if held and held + size > self._most_bytes:
            return False
        self._bytes_put += size
        return True

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name=f"observer-{self.name}", daemon=True)
        self._thread.start()

    def close(self, within_s: float = 5.0) -> bool:
        """Pass on the remaining events, and close the observer; later events are dropped. False if it takes longer
        than `within_s`; then it is abandoned."""
        if self._is_closing:
            return True
        self._is_closing, self._most_events = True, 0
        if self._thread is None:
            self._close_observer()
            return True
        self._awake.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            LOG.error("observer %r did not take its last events within %g s", self.name, within_s)
        return not self._thread.is_alive()

    def to_tree(self) -> dict[str, int]:
        own = getattr(self._observer, "to_counts", None)
        counted = own() if callable(own) else {}
        return {"delivered": self.delivered, "dropped": self.dropped, "failed": self.failed, **counted}

    def to_rows(self) -> dict[str, int]:
        """Rows by what became of them, if it counts rows."""
        return {}

    def _work(self) -> None:
        tick = getattr(self._observer, "tick", None)
        while not self._is_closing:
            self._awake.wait(PAUSE_S)
            self._awake.clear()
            self._hand_over()
            if tick is not None:
                self._tick(tick)
        self._hand_over()
        self._close_observer()

    def _hand_over(self) -> None:
        waiting, make_event = self._waiting, self._make_event
        while count := min(len(waiting), MOST_AT_ONCE):
            pairs = [waiting.popleft() for _ in range(count)]
            try:
                self._observer.observe([make_event(what) for what, _ in pairs])
            except BaseException as error:  # SystemExit too: this thread serves the observer and nothing else
                self.failed += count
                cause = describe_cause(error)
                self._tell("failed with %d events so far, the last time with %s", self.failed, cause, error)
            else:
                self.delivered += count
            self._bytes_done += sum([size for _, size in pairs if size > SMALL])

    def _tick(self, tick: Callable[[], None]) -> None:
        try:
            tick()
        except BaseException as error:
            self._tell("failed in tick(), the last time with %s", describe_cause(error), error)

    def _close_observer(self) -> None:
        close = getattr(self._observer, "close", None)
        try:
            if callable(close):
                close()
        except BaseException as error:
            LOG.error("observer %r could not be closed: %s", self.name, describe_cause(error), exc_info=error)

    def _tell(self, text: str, *values: Any) -> None:
        """Log it, unless the same was logged shortly before."""
        now = time.monotonic()
        if now - self._told.get(text, -QUIET_S) < QUIET_S:
            return
        self._told[text] = now
        *shown, last = values
        cause = last if isinstance(last, BaseException) else None
        LOG.error(f"observer %r {text}", self.name, *(shown if cause else values), exc_info=cause)
