"""One actor an application that judges its operation again and again, and tells what changed."""

import logging
from collections.abc import Mapping
from typing import Any

from raymlops.errors import UnreachableError
from raymlops.serving.actors.application_watch import ApplicationWatch
from raymlops.serving.actors.operation_rounds import OperationRounds
from raymlops.specs.serving import ServingSpec

LOG = logging.getLogger("raymlops.serving")


class OperationWatch(ApplicationWatch):
    what = "operational checks"

    def __init__(self, application: str) -> None:
        super().__init__(application)
        self._rounds = OperationRounds(application, self.settings, self.emit)

    def look(self, details: Mapping[str, Any], spec: ServingSpec) -> float:
        if spec.operations is None:
            self._end("operational alarms were turned off")
            return 0.0
        self._rounds.check(details, spec)
        return spec.operations.every_s

    def resend(self) -> None:
        self._rounds.resend()

    def end(self) -> None:
        self._end("the application was removed")

    def _end(self, why: str) -> None:
        try:
            self._rounds.end(why)
        except UnreachableError as error:
            LOG.error("operational checks of %s: alarms stay open: %s", self.application, error)
