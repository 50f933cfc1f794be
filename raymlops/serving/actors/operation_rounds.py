"""Rounds of operational checks of an application: gathers, judges, and records what changed as incidents. Starts no
process."""

import dataclasses
import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raymlops import locations
from raymlops.clusters import storage
from raymlops.errors import StorageError, UnreachableError
from raymlops.events.event import Event
from raymlops.events.incident import Incident, Watched
from raymlops.events.incidents import Incidents, find_location
from raymlops.monitoring.operations import judgement
from raymlops.monitoring.operations.figures import Figures, Round
from raymlops.monitoring.operations.history import (
    History,
    read_history,
    start_history,
    write_history,
)
from raymlops.monitoring.operations.judgement import Judged
from raymlops.serving.actors import operation_figures, operation_gauges
from raymlops.settings import Settings
from raymlops.specs.monitoring import Operations
from raymlops.specs.serving import ServingSpec

LOG = logging.getLogger("raymlops.serving")
WHO = "operational checks"
FOLDER = "operations"
"""Below the storage path: an application's history, one file."""
_WRITTEN_S = 300.0
"""The history is written so often; what a process that is killed had seen since is seen again."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one round found: the alarms of now, the incidents that are open after it, and those that it closed."""

    judged: Judged
    every: tuple[Incident, ...]
    """Of all families."""
    closed: tuple[Incident, ...] = ()
    unrecorded: str = ""
    """Why incidents could not be recorded."""

    @property
    def open(self) -> tuple[Incident, ...]:
        return tuple(one for one in self.every if _is_ours(one))


def _is_ours(incident: Incident) -> bool:
    return incident.alarm.watched.family == "operations"


class OperationRounds:
    """The rounds of one process. `emit` is told what changes, such as `Notifier.emit`."""

    def __init__(self, application: str, settings: Settings, emit: Callable[[Event], None]) -> None:
        self._application, self._settings, self._emit = application, settings, emit
        self._incidents = Incidents(find_location(settings), application, emit=emit)
        self._history: History | None = None
        self._written = 0.0
        self._shown: dict[operation_gauges.Kind, None] = {}
        self._away_since = ""
        """The time of the first round of which nothing could be recorded; empty if the last one was."""

    def check(self, details: Mapping[str, Any] | None, spec: ServingSpec) -> Outcome:
        """One round over Serve's details of the application, None if it has none."""
        figures = operation_figures.gather(self._application, details, spec, self._settings)
        found = self.judge(figures, spec)
        self._show(figures, spec, found.every)
        return found

    def judge(self, figures: Figures, spec: ServingSpec) -> Outcome:
        """What the figures of now change is recorded and told."""
        settings, history = spec.operations or Operations(), self._add(figures)
        ours: set[Watched] = set()
        try:
            ours = {one.alarm.watched for one in self._read_open() if _is_ours(one)}
            judged = judgement.judge(Round(figures, history, spec.slo, settings, ours))
            closed = self._record(judged, ours)
            every = self._read_open()
        except UnreachableError as error:
            judged = judgement.judge(Round(figures, history, spec.slo, settings, ours))
            self._tell_away(judged, str(error))
            return Outcome(judged, (), unrecorded=str(error))
        self._tell_back()
        return Outcome(judged, every, closed)

    def _read_open(self) -> tuple[Incident, ...]:
        return tuple(one for one in self._incidents.read() if one.open)

    def _show(self, figures: Figures, spec: ServingSpec, is_open: Sequence[Incident]) -> None:
        """With the metrics of the application; alarms of all families, since this process looks at all."""
        for one in is_open:
            self._shown.setdefault((one.alarm.severity, *one.alarm.watched), None)
        gauges = operation_gauges.list_gauges(figures, spec, is_open, self._shown)
        operation_figures.show_gauges(self._application, WHO, gauges)

    def resend(self) -> None:
        """Tell again what a process that was killed may have recorded and not told. Raises UnreachableError."""
        self._incidents.resend()

    def end(self, why: str) -> None:
        """Close what is open, as of an application that was removed. Raises UnreachableError."""
        for one in self._read_open():
            if _is_ours(one):
                self._incidents.close(one.number, WHO, why)

    def _record(self, judged: Judged, known: set[Watched]) -> tuple[Incident, ...]:
        found = {alarm.watched for alarm in judged.alarms}
        for alarm in judged.alarms:
            self._incidents.raise_or_update(alarm, WHO)
        clean = {one for one in known if one not in found and one.check in judged.checks}
        return self._incidents.close_clean(clean, WHO) if clean else ()

    def _add(self, figures: Figures) -> History:
        if self._history is None:
            self._history = self._read()
        self._history = (
            self._history.add(figures.now) if self._history.samples else start_history(figures.now)
        )
        if figures.now.at - self._written >= _WRITTEN_S:
            self._write(self._history)
            self._written = figures.now.at
        return self._history

    def _read(self) -> History:
        try:
            files, path = self._open()
            return read_history(files.cat_file(path))
        except (OSError, StorageError):
            return History()

    def _write(self, history: History) -> None:
        """Whole or not at all. A history that is lost begins anew."""
        try:
            files, path = self._open()
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            files.pipe_file(f"{path}.part", write_history(history))
            files.mv(f"{path}.part", path)
        except (OSError, StorageError) as error:
            LOG.warning("operational checks: the history cannot be written: %s", locations.explain(error))

    def _open(self) -> tuple[Any, str]:
        return storage.open_folder(self._settings.storage_path, FOLDER, f"{self._application}.json")

    def _tell_away(self, judged: Judged, problem: str) -> None:
        """Without a store for incidents the alarm that it is away goes to the channels directly, once an hour."""
        LOG.error("operational checks: %s", problem)
        at = datetime.datetime.now(datetime.UTC)
        self._away_since = self._away_since or at.isoformat(timespec="seconds")
        others = [alarm.sentence for alarm in judged.alarms if alarm.watched.check != "storage"]
        self._emit(
            self._make_event(
                "raymlops.alarm.raised",
                f"{problem}. Alarms are not recorded meanwhile. {' '.join(others)}".rstrip(),
                f"{self._away_since}/{at:%Y-%m-%dT%H}",
                "page",
            )
        )

    def _tell_back(self) -> None:
        if self._away_since:
            sentence = "Closed: incidents can be read and written again"
            self._emit(
                self._make_event("raymlops.alarm.closed", sentence, f"{self._away_since}/closed", "note")
            )
            self._away_since = ""

    def _make_event(self, kind: str, sentence: str, moment: str, severity: Any) -> Event:
        subject = f"{self._application}/storage"
        return Event(
            kind, self._application, subject, sentence, severity, who=WHO, next="raymlops doctor",
            id=f"{subject}/{moment}",
        )  # fmt: skip
