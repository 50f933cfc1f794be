"""Opens the tracking store and the registry that the settings name. Creates a local database when there
is none."""

import contextlib
import logging
import pathlib
import sqlite3
from typing import TypeAlias

import mlflow
from mlflow.entities import Experiment
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException

from raymlops.errors import StorageError
from raymlops.settings import Settings

Client: TypeAlias = mlflow.MlflowClient
"""For those who only pass it on: MLflow is imported in this folder alone."""


def connect(settings: Settings) -> Client:
    """A client of the store. Raises StorageError when it cannot be written or reached."""
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
        raise StorageError(
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
