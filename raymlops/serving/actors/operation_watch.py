"""One actor an application that judges its operation again and again, and tells what changed. Any replica creates it;
it outlives them, and ends when the application is removed."""

import logging
import pathlib
import threading
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymlops.errors import RaymlopsError, UnreachableError, describe_cause
from raymlops.events.delivery import Notifier
from raymlops.events.event import Event
from raymlops.events.notify_file import open_recorded, read_stamp
from raymlops.serving.actors import operation_figures
from raymlops.serving.actors.operation_rounds import OperationRounds
from raymlops.serving.actors.shared_actor import find_actor
from raymlops.serving.transport.asgi import log_to_stderr
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec

LOG = logging.getLogger("raymlops.serving")
ENSURED_S = 30.0
"""Seconds between two looks of a replica whether the actor is there."""
_FIRST_S = 5.0
_RETRY_S = 10.0
_GONE_S = 30.0
"""An application that Serve does not know for so long was removed."""


def ensure_watch(application: str) -> Any:
    """The handle of the actor, which is created if there is none: with the environment of this process, and on its
    node, where the files of certificates and keys are."""
    node = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node, soft=True)
    name = f"raymlops-operations-{application}"
    return find_actor(OperationWatch, name, application, scheduling_strategy=strategy)


class OperationWatch:
    """Rounds in a thread of their own."""

    def __init__(self, application: str) -> None:
        log_to_stderr()
        self._application, self._settings = application, Settings.from_env()
        self._notifier: Notifier | None = None
        self._told_by: tuple[object, object] = (None, None)
        self._gone_since: float | None = None
        self._rounds = OperationRounds(application, self._settings, self._emit)
        threading.Thread(target=self._run, name="operations", daemon=True).start()

    def ping(self) -> None:
        """Returns while the actor lives."""

    def _run(self) -> None:
        pause, resent = _FIRST_S, False
        while True:
            time.sleep(pause)
            try:
                pause = self._look()
                if not pause:
                    break
                if not resent:
                    self._rounds.resend()
                    resent = True
            except Exception as error:  # whatever it is, the next round is tried
                LOG.error("operational checks of %s: %s", self._application, describe_cause(error))
                pause = max(pause, _RETRY_S)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _look(self) -> float:
        """One round; gives the seconds until the next, 0 if there is nothing more to watch."""
        details = operation_figures.read_applications().get(self._application)
        if details is None or str(details["status"]).rpartition(".")[2] == "DELETING":
            self._gone_since = self._gone_since or time.monotonic()
            gone = time.monotonic() - self._gone_since > _GONE_S
            return self._end("the application was removed") if gone else _FIRST_S
        self._gone_since = None
        spec = operation_figures.read_spec(details, self._application)
        self._open_notifier(spec)
        if spec.operations is None:
            return self._end("operational alarms were turned off")
        self._rounds.check(details, spec)
        return spec.operations.every_s

    def _end(self, why: str) -> float:
        try:
            self._rounds.end(why)
        except UnreachableError as error:
            LOG.error("operational checks of %s: alarms stay open: %s", self._application, error)
        if self._notifier is not None:
            self._notifier.close()
        return 0.0

    def _open_notifier(self, spec: ServingSpec) -> None:
        """Anew when what it says has changed; while the file is wrong, what was read before stays in force."""
        path = pathlib.Path(spec.notify_file) if spec.notify_file else None
        told_by = (spec.notify, read_stamp(path))
        if self._notifier is not None and told_by == self._told_by:
            return
        try:
            opened = open_recorded(self._settings, spec.notify, path)
        except RaymlopsError as error:
            LOG.error("operational checks of %s: %s", self._application, error)
            if self._notifier is not None:
                return
            opened = open_recorded(self._settings, spec.notify, None)
        if self._notifier is not None:
            self._notifier.close()
        self._notifier, self._told_by = opened, told_by

    def _emit(self, event: Event) -> None:
        if self._notifier is not None:
            self._notifier.emit(event)
