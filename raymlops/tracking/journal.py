"""Sends what a search learns to MLflow from a thread of its own, so that training never waits for tracking.

Operations are sent in order. While the store cannot be reached they wait, in memory and in a file beside
the search, and are tried again with growing pauses; what could not be sent at the end
stays in the file, and the person is told.
"""

import collections
import json
import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any

Operation = dict[str, Any]

_LONGEST_PAUSE = 30.0  # seconds between two tries


class Journal:
    """A queue with one sender. `send` does one operation, and raises when it should be tried again."""

    def __init__(
        self, send: Callable[[Operation], None], spool: pathlib.Path, tell: Callable[[str], None]
    ) -> None:
        self._send = send
        self._spool = spool
        self._tell = tell
        self._waiting: collections.deque[Operation] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._troubled = False
        self.sent = 0
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def add(self, operation: Operation) -> None:
        """Queue one operation; returns at once."""
        with self._changed:
            self._waiting.append(operation)
            if self._troubled:
                with self._spool.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(operation) + "\n")
            self._changed.notify()

    @property
    def waiting(self) -> int:
        """Operations that were not sent yet."""
        return len(self._waiting)

    def close(self, patience: float = 60.0) -> int:
        """Wait until all is sent, `patience` seconds at most. Gives the number of operations left in the
        spool file."""
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
                operation = self._waiting[0]
            try:
                self._send(operation)
            except Exception as error:  # whatever the client of the store raises
                self._fall_back(error)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = 0.5
            self.sent += 1
            with self._changed:
                self._waiting.popleft()
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
            lines = [json.dumps(operation) + "\n" for operation in self._waiting]
            self._spool.write_text("".join(lines), encoding="utf-8")
        cause = " ".join(str(error).split())[:160]
        self._tell(f"The tracking store does not answer ({cause}); training goes on, and it is tried again")
