"""Whether the tracking store answers: a question of seconds, which changes nothing there. Imports MLflow only for one
that is neither a file nor a server."""

import concurrent.futures
import contextlib
import pathlib
import sqlite3
from collections.abc import Collection

import requests

from raymlops.errors import describe_cause
from raymlops.settings import Settings

PATIENCE_S = 10.0


def explain_absence(settings: Settings, patience_s: float = PATIENCE_S) -> str:
    """Why the store or the registry of the settings does not answer, in a sentence; empty if they do."""
    for uri in dict.fromkeys((settings.tracking_uri, settings.registry_uri)):
        if problem := _ask(uri, patience_s):
            from raymlops.tracking.store import hide_password

            return f"{hide_password(uri)}: {problem}"
    return ""


def find_missing(settings: Settings, versions: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of these versions of models that the registry no longer has; none where it cannot be asked so quickly."""
    uri = settings.registry_uri
    try:
        if uri.startswith("sqlite:///"):
            return [one for one in versions if not _has_row(_find_file(uri), *one)]
        if uri.startswith(("http://", "https://")):
            return [one for one in versions if _is_deleted(uri, *one)]
    except (OSError, sqlite3.Error):  # requests' errors are OSErrors, too
        pass
    return []


def _has_row(path: pathlib.Path, name: str, version: str) -> bool:
    with _open_file(path) as store:
        asked = "SELECT current_stage FROM model_versions WHERE name = ? AND version = ?"
        found = store.execute(asked, (name, version)).fetchone()
    return found is not None and found[0] != "Deleted_Internal"


def _is_deleted(uri: str, name: str, version: str) -> bool:
    """Whether the server says so; one that asks for a password says nothing."""
    url = f"{uri.rstrip('/')}/api/2.0/mlflow/model-versions/get"
    answer = requests.get(url, params={"name": name, "version": version}, timeout=PATIENCE_S)
    return answer.status_code == 404 and "RESOURCE_DOES_NOT_EXIST" in answer.text


def _ask(uri: str, patience_s: float) -> str:
    try:
        if uri.startswith("sqlite:///"):
            _read_file(_find_file(uri))
        elif uri.startswith(("http://", "https://")):
            status = requests.get(f"{uri.rstrip('/')}/health", timeout=patience_s).status_code
            # One that asks for a password is there.
            return f"it answers with status {status}" if status >= 500 else ""
        else:
            return _search(uri, patience_s)
    except requests.Timeout:
        return f"no answer in {patience_s:g} s"
    except requests.ConnectionError:
        return "no connection"
    except (OSError, sqlite3.Error, requests.RequestException) as error:
        return describe_cause(error, 200)
    return ""


def _read_file(path: pathlib.Path) -> None:
    """Raises FileNotFoundError, sqlite3.Error."""
    path.stat()
    with _open_file(path) as store:
        store.execute("SELECT count(*) FROM experiments").fetchone()


def _find_file(uri: str) -> pathlib.Path:
    return pathlib.Path(uri.removeprefix("sqlite:///"))


def _open_file(path: pathlib.Path) -> contextlib.closing[sqlite3.Connection]:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return contextlib.closing(sqlite3.connect(uri, uri=True, timeout=5))


def _search(uri: str, patience_s: float) -> str:
    """A database that hangs would keep its asker for minutes: it is left to its own thread."""
    import mlflow

    from raymlops.tracking.store import silence_migration_logs

    silence_migration_logs()
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="tracking")
    asked = pool.submit(lambda: mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1))
    pool.shutdown(wait=False)
    try:
        asked.result(patience_s)
    except concurrent.futures.TimeoutError:
        return f"no answer in {patience_s:g} s"
    except Exception as error:  # of whatever database
        return describe_cause(error, 200)
    return ""
