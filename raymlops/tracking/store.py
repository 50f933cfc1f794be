"""Opens the tracking store and the registry of the settings, and waits for them while they are unreachable. Creates a
local database if there is none."""

import contextlib
import functools
import logging
import pathlib
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

import filelock
import mlflow
import requests
from mlflow.entities import Experiment
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from raymlops import locations
from raymlops.errors import StorageError, UnreachableError
from raymlops.settings import Settings

Client: TypeAlias = mlflow.MlflowClient
"""For modules that only pass it on: MLflow is imported in this folder alone."""

PATIENCE = 300.0  # seconds that the end of a search waits for an unreachable store
_PAUSE = 2.0
_MENDED = {401, 403, 408, 409, 429}  # statuses below 500 after which a retry may succeed
_PASSING = (UnreachableError, ConnectionError, TimeoutError, requests.RequestException)
_FILE_CLIENTS = (
    "boto3",
    "botocore",
    "google",
    "azure",
)  # may not be installed, so their errors are matched by name
_PACKAGES = {"s3": "raymlops[s3]", "gs": "google-cloud-storage", "wasbs": "azure-storage-blob"}
"""The package that MLflow needs for artifacts of a scheme."""
_Result = TypeVar("_Result")


def _require_writable(file: pathlib.Path) -> None:
    """Fails at once, while MLflow would retry for minutes."""
    with contextlib.closing(sqlite3.connect(file, timeout=60)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS raymlops_probe (x)")
        database.execute("DROP TABLE IF EXISTS raymlops_probe")


def connect(settings: Settings) -> Client:
    """A client of the store. Raises UnreachableError if it cannot be written or reached."""
    silence_migration_logs()
    uri = settings.tracking_uri
    try:
        with contextlib.ExitStack() as held:
            if uri.startswith("sqlite:///"):
                file = pathlib.Path(uri.removeprefix("sqlite:///"))
                file.parent.mkdir(parents=True, exist_ok=True)
                # MLflow's migrations of a new file fail if another process runs them, too.
                held.enter_context(filelock.FileLock(f"{file}.lock", timeout=PATIENCE))
                _require_writable(file)
                if not locations.is_remote(settings.artifact_root):
                    pathlib.Path(settings.artifact_root).mkdir(parents=True, exist_ok=True)
            client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=settings.registry_uri)
            client.search_experiments(max_results=1)
    except (OSError, sqlite3.Error, MlflowException) as error:  # a lock that is never free is an OSError
        cause = " ".join(str(error).split())[:200]
        raise UnreachableError(
            f"Cannot use the tracking store {hide_password(uri)!r}: {cause}; "
            "set MLFLOW_TRACKING_URI (or RAYMLOPS_HOME) to one that can be written"
        ) from None
    return client


def ensure_experiment(client: mlflow.MlflowClient, name: str, settings: Settings) -> Experiment:
    """The experiment of that name, created if it does not exist; with a local store, its files are under the artifact
    root."""
    require_artifacts(settings)
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None
        if settings.tracking_uri.startswith("sqlite:"):
            location = locations.join(settings.artifact_root, name)
        with contextlib.suppress(MlflowException):  # another job created it first
            client.create_experiment(name, artifact_location=location)
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise StorageError(
            f"Experiment {name!r} was deleted; restore it: mlflow experiments restore, or use another name"
        )
    return found


def artifacts_of(client: mlflow.MlflowClient, run: str) -> ArtifactRepository:
    """The files of a run, where they are: by `runs:/` MLflow asks the store several times more for each of them, for
    those of logged models. Raises MlflowException where there is no such run."""
    uri = _find_artifacts(client.tracking_uri, run)
    return get_artifact_repository(uri, tracking_uri=client.tracking_uri)


@functools.lru_cache(maxsize=4096)
def _find_artifacts(tracking_uri: str, run: str) -> str:
    """Where a run keeps its files, which is decided when it is made."""
    return str(mlflow.MlflowClient(tracking_uri=tracking_uri).get_run(run).info.artifact_uri)


def require_artifacts(settings: Settings) -> None:
    """Raises StorageError if the artifacts of a local store are in a bucket that cannot be used."""
    root = settings.artifact_root
    if settings.tracking_uri.startswith("sqlite:") and locations.is_remote(root):
        with reaching_artifacts(root):
            # listing a non-existent folder is cheap
            get_artifact_repository(root).list_artifacts(".raymlops")


@contextlib.contextmanager
def reaching_artifacts(location: str) -> Iterator[None]:
    """Turn errors of the artifacts' bucket into a StorageError with place, cause and remedy."""
    try:
        yield
    except ImportError as error:
        package = _PACKAGES.get(location.partition("://")[0], error.name)
        raise StorageError(
            f"The artifacts at {location!r} need the package {error.name!r}; run: "
            f"pip install {shlex.quote(str(package))}"
        ) from None
    except Exception as error:
        if not isinstance(error, MlflowException) and not _is_of_files(error):
            raise
        raise UnreachableError(
            f"Cannot use the artifacts at {location!r}: {locations.explain(error)}; fix it, or set RAYMLOPS_ARTIFACTS "
            "to another folder or URI"
        ) from None


def _is_of_files(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in _FILE_CLIENTS


def is_refusal(error: Exception) -> bool:
    """Whether the store answered and would refuse again, as for a deleted run."""
    if not isinstance(error, MlflowException):
        return False
    status = error.get_http_status_code()
    return status < 500 and status not in _MENDED


def retry_until_answered(
    call: Callable[[], _Result], tell: Callable[[str], None], patience: float | None = None
) -> _Result:
    """The result of a call that may be repeated, retried until the store answers.

    Raises UnreachableError after `patience` seconds, and at once if the store refuses.
    """
    ends = time.monotonic() + (PATIENCE if patience is None else patience)
    troubled = False
    while True:
        try:
            return call()
        except Exception as error:
            if is_refusal(error) or not _may_pass(error):
                raise
            cause = " ".join(str(error).split())[:160]
            if time.monotonic() > ends:
                raise UnreachableError(f"The tracking store does not answer: {cause}") from None
            if not troubled:
                tell(f"The tracking store does not answer ({cause}); it is tried again")
            troubled = True
            time.sleep(_PAUSE)


def _may_pass(error: Exception) -> bool:
    """Whether an error comes from an unreachable store, or from its artifact bucket."""
    return isinstance(error, (MlflowException, *_PASSING)) or _is_of_files(error)


def silence_migration_logs() -> None:
    """MLflow and alembic log each migration, version and downloaded file to stderr."""
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def hide_password(uri: str) -> str:
    """The URI without its password, if it has one."""
    scheme, mark, rest = uri.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{mark}{user.partition(':')[0]}:***@{host}" if at and ":" in user else uri
