"""One actor an application that judges what its versions see and answer, tick after tick, and tells what changed. Each
round reads the counts that the collector wrote, so that a restart loses nothing."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.monitoring.quality import Quality
from raymlops.monitoring.tick_store import TickStore
from raymlops.runtime.application_judge import ApplicationJudge
from raymlops.runtime.estimated_quality import DailyEstimates
from raymlops.serving.actors import judge_gauges
from raymlops.serving.actors.application_watch import ApplicationWatch
from raymlops.serving.actors.operation_figures import show_gauges
from raymlops.specs.serving import ServingSpec

LOG = logging.getLogger("raymlops.serving")
_LEAST_S = 15.0
"""Between two rounds, however narrow ticks are."""
_ESTIMATED_S = 600.0
_NICENESS = 10
"""Thresholds are simulated for seconds: replicas on the same node go before."""


class JudgeWatch(ApplicationWatch):
    what = "judging"

    def __init__(self, application: str) -> None:
        super().__init__(application)
        os.nice(_NICENESS)
        self._judge: ApplicationJudge | None = None
        self._root = ""
        self._estimates: DailyEstimates | None = None
        self._estimated: Mapping[tuple[str, str], Sequence[Quality]] = {}
        self._estimated_at = 0.0

    def look(self, details: Mapping[str, Any], spec: ServingSpec) -> float:
        monitoring = spec.monitoring
        if monitoring is None or not monitoring.watched:
            return 0.0
        if self._judge is None or monitoring.path != self._root:
            self._root = monitoring.path
            self._judge = ApplicationJudge(self.application, self.settings, self.emit, monitoring.path)
            self._estimates = DailyEstimates(TickStore(monitoring.path, self.application))
        judged = self._judge.run()
        for note in judged.notes:
            LOG.warning("judging %s: %s", self.application, note)
        gauges = judge_gauges.list_gauges(judged, self._estimate(judged.at))
        show_gauges(self.application, self.what, gauges)
        return max(float(monitoring.tick_seconds), _LEAST_S)

    def _estimate(self, at: float) -> Mapping[tuple[str, str], Sequence[Quality]]:
        """Anew every some minutes, since it reads the counts of a day."""
        if self._estimates is not None and at - self._estimated_at >= _ESTIMATED_S:
            self._estimated, self._estimated_at = self._estimates.estimate(at), at
        return self._estimated

    def resend(self) -> None:
        if self._judge is not None:
            self._judge.resend()
