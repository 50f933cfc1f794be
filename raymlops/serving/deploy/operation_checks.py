"""One round of operational checks, asked for by a person or a script: of an application of this cluster, or of one that
was deployed there and is no longer served."""

import pathlib
from collections.abc import Callable

import ray.exceptions

from raymlops.errors import NotFoundError, UnreachableError, unknown_name
from raymlops.events.event import Event
from raymlops.events.notify_file import open_recorded
from raymlops.serving.actors import operation_figures
from raymlops.serving.actors.operation_rounds import OperationRounds, Outcome
from raymlops.serving.deploy import client, history
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec


def check_operations(
    settings: Settings, application: str, emit: Callable[[Event], None] | None = None
) -> Outcome:
    """Joins the cluster of the settings. Without `emit`, what changes is told as the application's notify.yaml says.
    Raises NotFoundError for an application that is not deployed, ResourceError without a cluster, UnreachableError if
    Serve does not answer."""
    client.connect(settings)
    try:
        running = operation_figures.read_applications()
    except (ValueError, ray.exceptions.RayError, TimeoutError) as error:
        raise UnreachableError(f"Ray Serve does not answer on this cluster: {error}") from None
    details = running.get(application)
    if details is not None:
        spec = operation_figures.read_spec(details, application)
    else:
        spec = _find_deployed(settings, application, list(running))
    if emit is not None:
        return OperationRounds(application, settings, emit).check(details, spec)
    notifier = open_recorded(
        settings, spec.notify, pathlib.Path(spec.notify_file) if spec.notify_file else None
    )
    try:
        return OperationRounds(application, settings, notifier.emit).check(details, spec)
    finally:
        notifier.close()


def _find_deployed(settings: Settings, application: str, running: list[str]) -> ServingSpec:
    """The spec of one that should be served. Raises NotFoundError if it was removed, or never deployed."""
    known = history.list_applications(settings)
    config = history.History(settings, application).newest() if application in known else None
    if config is None:
        raise NotFoundError(unknown_name("application", application, running))
    return ServingSpec.model_validate(config["args"])
