"""Finds and reads notify.yaml, and opens what it describes."""

import hashlib
import pathlib

from raymlops.errors import NotFoundError
from raymlops.events.delivery import Notifier
from raymlops.events.routes import require_known_filters
from raymlops.settings import Settings, read_environment
from raymlops.specs.document import read_document
from raymlops.specs.notify import LogChannel, NotifySpec

NAME = "notify.yaml"
DEFAULT = NotifySpec(channels={"log": LogChannel()})
"""Where there is no notify.yaml: all events to the log."""


def find_notify(settings: Settings, beside: pathlib.Path | None = None) -> pathlib.Path | None:
    """RAYMLOPS_NOTIFY if it is set, else notify.yaml in the folder `beside`, that of a spec, else in the home; None if
    there is none. Raises NotFoundError if RAYMLOPS_NOTIFY names no file."""
    if settings.notify is not None:
        if not settings.notify.is_file():
            raise NotFoundError(f"RAYMLOPS_NOTIFY names {str(settings.notify)!r}, which is no file")
        return settings.notify
    folders = [folder for folder in (beside, settings.home) if folder is not None]
    return next((folder / NAME for folder in folders if (folder / NAME).is_file()), None)


def read_notify(path: pathlib.Path | None) -> NotifySpec:
    """The default without a path. Raises SpecError with a sentence for each mistake."""
    if path is None:
        return DEFAULT
    spec = read_document(path, NotifySpec)
    require_known_filters(spec, str(path))
    return spec


def find_spool(settings: Settings, path: pathlib.Path | None) -> pathlib.Path:
    """The folder of the spools of a notify.yaml: another file may have channels of the same names."""
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12] if path else "default"
    return settings.home / "events" / name


def open_recorded(settings: Settings, spec: NotifySpec | None, path: pathlib.Path | None) -> Notifier:
    """The notifier of an application, with what its notify.yaml said when it was deployed, or, if `path` is here, what
    the file says now. Raises SpecError for a file that is wrong."""
    if spec is None and path is None:
        path = find_notify(settings)
    if path is not None and path.is_file():
        spec = read_notify(path)
    return Notifier(spec or DEFAULT, find_spool(settings, path), read_environment())


def read_stamp(path: pathlib.Path | None) -> object:
    """Changes when the file does; None if there is none."""
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else None


def open_notifier(settings: Settings, beside: pathlib.Path | None = None) -> Notifier:
    """The notifier of this process, which also sends what ended processes left. Raises SpecError and NotFoundError for
    a wrong notify.yaml."""
    path = find_notify(settings, beside)
    return Notifier(read_notify(path), find_spool(settings, path), read_environment())
