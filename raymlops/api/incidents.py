"""Alarms and notifications from a notebook or a script, as `raymlops alarms` and `raymlops notify` do it."""

import contextlib
import datetime
import os
import pathlib
from collections.abc import Iterator

from raymlops.errors import UnreachableError
from raymlops.events import notify_check, notify_file
from raymlops.events.incident import Incident
from raymlops.events.incidents import Incidents, open_incident, read_all
from raymlops.serving.deploy import launch
from raymlops.settings import Settings, read_environment


def alarms(*, only_open: bool = False) -> tuple[Incident, ...]:
    """The alarms of all applications, the newest first. Raises UnreachableError."""
    return tuple(one for one in read_all(Settings.from_env()) if one.open or not only_open)


def check_alarms(application: str) -> tuple[Incident, ...]:
    """Check now how a running application operates, as `raymlops alarms check`; its operational alarms that are then
    open. Raises NotFoundError, ResourceError without a cluster, and UnreachableError if Serve or the store of incidents
    does not answer."""
    found = launch.check_operations(application, Settings.from_env())
    if found.unrecorded:
        raise UnreachableError(found.unrecorded)
    return found.open


def acknowledge_alarm(alarm: str, why: str) -> Incident:
    """Say that you look after an alarm, such as `flights/231`. Raises NotFoundError, and SpecError if it is closed."""
    with _opened(alarm) as (incidents, number, who):
        return incidents.acknowledge(number, who, why)


def silence_alarm(alarm: str, until: datetime.datetime, why: str = "") -> Incident:
    """Tell no updates of an alarm until a time; one without a zone is local. Raises NotFoundError, and SpecError if the
    alarm is closed or the time has passed."""
    with _opened(alarm) as (incidents, number, who):
        return incidents.silence(number, until.astimezone(), who, why)


def close_alarm(alarm: str, why: str) -> Incident:
    """Close an alarm; what is still wrong at the next judgement raises another. Raises NotFoundError, and SpecError if
    it is closed."""
    with _opened(alarm) as (incidents, number, who):
        return incidents.close(number, who, why)


def check_notify(file: str | os.PathLike[str] | None = None) -> tuple[notify_check.ChannelState, ...]:
    """What each channel of notify.yaml needs, gets, and has waiting; contacts none. Raises SpecError."""
    settings, path = _find_file(file)
    spec = notify_file.read_notify(path)
    return notify_check.check_channels(spec, notify_file.find_spool(settings, path), read_environment())


def try_notify(
    *channels: str, file: str | os.PathLike[str] | None = None
) -> tuple[notify_check.Delivery, ...]:
    """Send a test message to channels, or to all, as `raymlops notify test`. Raises SpecError and NotFoundError."""
    settings, path = _find_file(file)
    return notify_check.send_test(
        notify_file.read_notify(path), read_environment(), channels, who=settings.user
    )


def _find_file(file: str | os.PathLike[str] | None) -> tuple[Settings, pathlib.Path | None]:
    settings = Settings.from_env()
    return settings, pathlib.Path(file) if file else notify_file.find_notify(settings, pathlib.Path.cwd())


@contextlib.contextmanager
def _opened(alarm: str) -> Iterator[tuple[Incidents, int, str]]:
    """An application's incidents, whose changes are told as notify.yaml says, the number, and who acts."""
    settings = Settings.from_env()
    open_incident(alarm, settings)  # before anything starts
    notifier = notify_file.open_notifier(settings, pathlib.Path.cwd())
    try:
        incidents, number = open_incident(alarm, settings, notifier.emit)
        yield incidents, number, settings.user
    finally:
        notifier.close()
