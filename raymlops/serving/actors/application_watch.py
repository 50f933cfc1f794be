"""Looks at an application again and again, in an actor of its own (`watch_actors`), and tells what changed. It outlives
the replicas, and ends when the application is removed. What it looks at is its subclasses' matter."""

import logging
import pathlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray

from raymlops.errors import RaymlopsError, describe_cause
from raymlops.events.delivery import Notifier
from raymlops.events.event import Event
from raymlops.events.notify_file import open_recorded, read_stamp
from raymlops.serving.actors import operation_figures
from raymlops.serving.transport.asgi import log_to_stderr
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec

LOG = logging.getLogger("raymlops.serving")
_FIRST_S = 5.0
_RETRY_S = 10.0
_GONE_S = 30.0
"""An application that Serve does not know for so long was removed."""


class ApplicationWatch:
    """Rounds in a thread of their own, once `start` is called."""

    what = "watch"
    """For messages."""

    def __init__(self, application: str) -> None:
        log_to_stderr()
        self.application, self.settings = application, Settings.from_env()
        self._notifier: Notifier | None = None
        self._told_by: tuple[object, object] = (None, None)
        self._gone_since: float | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name=self.what, daemon=True).start()

    def look(self, details: Mapping[str, Any], spec: ServingSpec) -> float:
        """One round, of Serve's details of the application; gives the seconds until the next, 0 if there is nothing
        more to watch."""
        raise NotImplementedError

    def resend(self) -> None:
        """After the first round: tell again what a process that was killed may have recorded and not told."""

    def end(self) -> None:
        """The application was removed."""

    def emit(self, event: Event) -> None:
        """Tell the channels of the application."""
        if self._notifier is not None:
            self._notifier.emit(event)

    def _run(self) -> None:
        pause, resent = _FIRST_S, False
        while True:
            time.sleep(pause)
            try:
                pause = self._look()
                if not pause:
                    break
                if not resent:
                    self.resend()
                    resent = True
            except Exception as error:  # whatever it is, the next round is tried
                LOG.error("%s of %s: %s", self.what, self.application, describe_cause(error))
                pause = max(pause, _RETRY_S)
        if self._notifier is not None:
            self._notifier.close()
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _look(self) -> float:
        details = operation_figures.read_applications().get(self.application)
        if details is None or str(details["status"]).rpartition(".")[2] == "DELETING":
            self._gone_since = self._gone_since or time.monotonic()
            if time.monotonic() - self._gone_since <= _GONE_S:
                return _FIRST_S
            self.end()
            return 0.0
        self._gone_since = None
        spec = operation_figures.read_spec(details, self.application)
        self._open_notifier(spec)
        return self.look(details, spec)

    def _open_notifier(self, spec: ServingSpec) -> None:
        """Anew when what it says has changed; while the file is wrong, what was read before stays in force."""
        path = pathlib.Path(spec.notify_file) if spec.notify_file else None
        told_by = (spec.notify, read_stamp(path))
        if self._notifier is not None and told_by == self._told_by:
            return
        try:
            opened = open_recorded(self.settings, spec.notify, path)
        except RaymlopsError as error:
            LOG.error("%s of %s: %s", self.what, self.application, error)
            if self._notifier is not None:
                return
            opened = open_recorded(self.settings, spec.notify, None)
        if self._notifier is not None:
            self._notifier.close()
        self._notifier, self._told_by = opened, told_by
