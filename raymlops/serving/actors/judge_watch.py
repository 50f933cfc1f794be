"""One actor an application that judges what its versions see and answer, tick after tick, and tells what changed. Each
round reads the counts that the collector wrote, so that a restart loses nothing."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from raymlops.runtime.application_judge import ApplicationJudge
from raymlops.serving.actors.application_watch import ApplicationWatch
from raymlops.serving.actors.shared_actor import find_actor
from raymlops.specs.serving import ServingSpec

LOG = logging.getLogger("raymlops.serving")
_LEAST_S = 15.0
"""Between two rounds, however narrow ticks are."""
_NICENESS = 10
"""Thresholds are simulated for seconds: replicas on the same node go before."""


def ensure_watch(application: str) -> Any:
    """The handle of the actor, which is created if there is none, with the environment of this process."""
    return find_actor(JudgeWatch, f"raymlops-judge-{application}", application)


class JudgeWatch(ApplicationWatch):
    what = "judging"

    def __init__(self, application: str) -> None:
        super().__init__(application)
        os.nice(_NICENESS)
        self._judge: ApplicationJudge | None = None
        self._root = ""
        self.start()

    def look(self, details: Mapping[str, Any], spec: ServingSpec) -> float:
        monitoring = spec.monitoring
        if monitoring is None or not monitoring.watched:
            return 0.0
        if self._judge is None or monitoring.path != self._root:
            self._root = monitoring.path
            self._judge = ApplicationJudge(self.application, self.settings, self.emit, monitoring.path)
        for note in self._judge.run().notes:
            LOG.warning("judging %s: %s", self.application, note)
        return max(float(monitoring.tick_seconds), _LEAST_S)

    def resend(self) -> None:
        if self._judge is not None:
            self._judge.resend()
