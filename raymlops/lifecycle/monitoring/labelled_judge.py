"""Judges an endpoint's answers by the labels that came: in each application that watches it, what differs becomes an
alarm."""

import contextlib
import dataclasses
import datetime
import pathlib

from raymlops.captures.store import CaptureStore
from raymlops.errors import RaymlopsError
from raymlops.events.incident import Incident, Watched
from raymlops.events.incidents import Incidents, find_location
from raymlops.events.notify_file import open_notifier
from raymlops.lifecycle.monitoring.measured_quality import measure_days
from raymlops.monitoring import tick_store
from raymlops.monitoring.label_test import judge_labels
from raymlops.monitoring.tick_store import TickStore
from raymlops.settings import Settings

_DAYS = 64
WHO = "labels"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Alarms that are open after it, and what could not be judged, in sentences."""

    alarms: tuple[Incident, ...]
    problems: tuple[str, ...]


def judge_endpoint(
    store: CaptureStore, endpoint: str, settings: Settings, at: datetime.datetime | None = None
) -> Outcome:
    """Of the last 64 days; told as notify.yaml says. An application whose counts or versions cannot be read is among
    the problems."""
    at = at or datetime.datetime.now(datetime.UTC)
    alarms: list[Incident] = []
    problems: list[str] = []
    root = tick_store.find_root(settings.storage_path)
    try:
        applications = tick_store.list_applications(root)
    except RaymlopsError as error:
        return Outcome((), (str(error),))
    with contextlib.closing(open_notifier(settings, pathlib.Path.cwd())) as notifier:
        for application in applications:
            try:
                incidents = Incidents(find_location(settings), application, emit=notifier.emit)
                alarms += _judge(TickStore(root, application), incidents, store, endpoint, settings, at)
            except RaymlopsError as error:
                problems.append(f"{application}: answers are not judged by labels: {error}")
    return Outcome(tuple(alarms), tuple(problems))


def _judge(
    ticks: TickStore,
    incidents: Incidents,
    store: CaptureStore,
    endpoint: str,
    settings: Settings,
    at: datetime.datetime,
) -> list[Incident]:
    monitoring = ticks.read_settings()
    watched = monitoring.get("watched", {}).get(endpoint)
    if watched is None:
        return []
    calibration = ticks.read_reference(watched["reference"]).calibration
    if calibration is None:
        return []
    model, version = watched["model"], watched["version"]
    since = (at - datetime.timedelta(days=_DAYS)).date()
    days = measure_days(
        store, endpoint, f"models:/{model}/{version}", calibration, since, at.date(), settings
    )
    if not days:
        return []
    rate = float(monitoring.get("false_alarms_per_month", 1.0))
    verdict = judge_labels(calibration, days, model, version, rate)
    if verdict is None:
        incidents.close_clean({Watched(model, version, "labels")}, WHO)
        return []
    return [incidents.raise_or_update(verdict.to_alarm(model, version), WHO)]
