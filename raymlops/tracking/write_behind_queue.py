"""Sends the results of a search to MLflow from its own thread, so that training never waits for tracking.

Operations of a trial are sent in order; its reports of some seconds are sent together, since one call costs as much
as many reports. While the store is unreachable, operations wait in memory and in a spool file beside the search, and
are retried with growing pauses; what could not be sent at the end stays in the file, and a warning is logged.
"""

import collections
import itertools
import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

Operation = dict[str, Any]
_Waiting = tuple[float, Operation]  # with its time of arrival

_LONGEST_PAUSE = 30.0  # seconds between two tries
_GATHERING = 3.0  # seconds that an operation waits to be sent together with others
_TOGETHER = 50  # reports; MLflow takes 1000 metrics in one call
_SEEN = 1000  # operations to look through for reports of the same trial


class WriteBehindQueue:
    """A queue with one sender thread. `send` does one operation, or several reports of one trial, and raises if it
    should be retried."""

    def __init__(
        self, send: Callable[[list[Operation]], None], spool: pathlib.Path, tell: Callable[[str], None]
    ) -> None:
        self._send = send
        self._spool = spool
        self._tell = tell
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._troubled = False
        self.sent = 0
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def add(self, operation: Operation) -> None:
        """Queue one operation; returns at once."""
        with self._changed:
            self._waiting.append((time.monotonic(), operation))
            if self._troubled:
                with self._spool.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(operation) + "\n")
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Operations that are not sent yet."""
        return len(self._waiting)

    def close(self, patience: float = 60.0) -> int:
        """Wait until all is sent, `patience` seconds at most. Returns the number of operations left in the spool
        file."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(patience)
        with self._changed:
            left = len(self._waiting)
        if left:
            self._tell(f"{left} tracking operations were not sent; they are kept in {self._spool}")
        return left

    def _run(self) -> None:
        pause = 0.5
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                rest = self._waiting[0][0] + _GATHERING - time.monotonic()
                self._changed.wait_for(lambda: self._closing, max(0.0, rest))
                chosen = _choose(self._waiting)
            try:
                self._send([operation for _, operation in chosen])
            except Exception as error:  # any exception of the store's client
                self._fall_back(error)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = 0.5
            self.sent += len(chosen)
            with self._changed:
                for entry in chosen:
                    self._waiting.remove(entry)
                if self._troubled and not self._waiting:
                    self._troubled = False
                    self._spool.unlink(missing_ok=True)
                    self._tell("The tracking store answers again; all that waited has been sent")

    def _fall_back(self, error: Exception) -> None:
        with self._changed:
            if self._troubled:
                return
            self._troubled = True
            self._spool.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(operation) + "\n" for _, operation in self._waiting]
            self._spool.write_text("".join(lines), encoding="utf-8")
        cause = " ".join(str(error).split())[:160]
        self._tell(f"The tracking store does not answer ({cause}); training continues, and it is tried again")


def _choose(waiting: Iterable[_Waiting]) -> list[_Waiting]:
    """The oldest operation; if it is a report, with the reports of the same trial that follow it."""
    seen = itertools.islice(waiting, _SEEN)
    chosen = [next(seen)]
    first = chosen[0][1]
    for entry in seen if first["kind"] == "report" else ():
        if entry[1]["trial"] != first["trial"]:
            continue
        if entry[1]["kind"] != "report" or len(chosen) == _TOGETHER:
            break
        chosen.append(entry)
    return chosen
