"""Whether the tracking store answers: a question of seconds, which changes nothing there. Imports MLflow only for one
that is neither a file nor a server."""

import concurrent.futures
import contextlib
import pathlib
import sqlite3

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


def _ask(uri: str, patience_s: float) -> str:
    try:
        if uri.startswith("sqlite:///"):
            _read_file(pathlib.Path(uri.removeprefix("sqlite:///")))
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
    with contextlib.closing(
        sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
    ) as store:
        store.execute("SELECT count(*) FROM experiments").fetchone()


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
