"""Opens the tracking store and the registry that the settings name, and waits for them while they are away.
Creates a local database when there is none."""

import contextlib
import logging
import pathlib
import sqlite3
import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import mlflow
import requests
from mlflow.entities import Experiment
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException

from raymlops.errors import StorageError, UnreachableError
from raymlops.settings import Settings

Client: TypeAlias = mlflow.MlflowClient
"""For those who only pass it on: MLflow is imported in this folder alone."""

PATIENCE = 300.0  # seconds that the end of a search waits for a store that is away
_PAUSE = 2.0
_MENDED = {401, 403, 408, 409, 429}  # statuses below 500 after which a second try may succeed
_Result = TypeVar("_Result")


def connect(settings: Settings) -> Client:
    """A client of the store. Raises UnreachableError when it cannot be written or reached."""
    quieten()
    uri = settings.tracking_uri
    try:
        if uri.startswith("sqlite:///"):
            file = pathlib.Path(uri.removeprefix("sqlite:///"))
            file.parent.mkdir(parents=True, exist_ok=True)
            with sqlite3.connect(file) as database:  # fails at once, where MLflow would retry for minutes
                database.execute("CREATE TABLE IF NOT EXISTS raymlops_probe (x)")
                database.execute("DROP TABLE raymlops_probe")
            pathlib.Path(settings.artifact_root).mkdir(parents=True, exist_ok=True)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=settings.registry_uri)
        client.search_experiments(max_results=1)
    except (OSError, sqlite3.Error, MlflowException) as error:
        cause = " ".join(str(error).split())[:200]
        raise UnreachableError(
            f"Cannot use the tracking store {hide_password(uri)!r}: {cause}; "
            "set MLFLOW_TRACKING_URI (or RAYMLOPS_HOME) to one that can be written"
        ) from None
    return client


def ensure_experiment(client: mlflow.MlflowClient, name: str, settings: Settings) -> Experiment:
    """The experiment of that name, made if it is not there; its files under the artifact root of a local
    store."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None
        if settings.tracking_uri.startswith("sqlite:"):
            location = str(pathlib.Path(settings.artifact_root) / name)
        with contextlib.suppress(MlflowException):  # another job was first
            client.create_experiment(name, artifact_location=location)
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise StorageError(
            f"Experiment {name!r} was deleted; restore it: mlflow experiments restore, or use another name"
        )
    return found


def is_refusal(error: Exception) -> bool:
    """Whether the store answered, and no second try would change its mind: a run that was deleted, say."""
    if not isinstance(error, MlflowException):
        return False
    status = error.get_http_status_code()
    return status < 500 and status not in _MENDED


def patiently(
    call: Callable[[], _Result], tell: Callable[[str], None], patience: float | None = None
) -> _Result:
    """The result of a call that may be repeated, tried until the store answers.

    Raises UnreachableError after `patience` seconds, and at once what the store refuses.
    """
    ends = time.monotonic() + (PATIENCE if patience is None else patience)
    troubled = False
    while True:
        try:
            return call()
        except (
            MlflowException,
            UnreachableError,
            ConnectionError,
            TimeoutError,
            requests.RequestException,
        ) as error:
            if is_refusal(error):
                raise
            cause = " ".join(str(error).split())[:160]
            if time.monotonic() > ends:
                raise UnreachableError(f"The tracking store does not answer: {cause}") from None
            if not troubled:
                tell(f"The tracking store does not answer ({cause}); it is tried again")
            troubled = True
            time.sleep(_PAUSE)


def quieten() -> None:
    """MLflow and alembic announce each migration, version and downloaded file on stderr."""
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def hide_password(uri: str) -> str:
    """The URI without the password that may stand in it."""
    scheme, mark, rest = uri.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{mark}{user.partition(':')[0]}:***@{host}" if at and ":" in user else uri
