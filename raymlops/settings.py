"""The only reader of the process environment. Call `Settings.from_env()` in a command's entry, never on import."""

import dataclasses
import functools
import getpass
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

PROCESS_DEFAULTS = {
    # Result files that nobody reads: three writes per report.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's own progress tables; ours replace them.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ray runs workers at niceness 15: trials would yield to every other process of their machine.
    "RAY_worker_niceness": "0",
    # Ray ends idle workers after a second; the next stage would import their libraries again.
    "RAY_idle_worker_killing_time_threshold_ms": "20000",
    # Ray warns, once per process, about accelerators that are hidden on purpose.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    # No pickle is ever loaded from a model's folder.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # MLflow would wait minutes for an unreachable server; our write-behind queue retries by itself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Settings of the libraries that we use, each with its reason; values already in the environment take precedence."""


TEAM_DEFAULTS = {
    # If a worker group is not placed in time, it is requested again, with as many workers as then fit.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    # A report waits for the next poll of the workers: with Ray's default of two seconds, short epochs would take that
    # long.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # Clouds give at least half a minute's notice.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
}
"""The same for the process that controls a training with several workers, on any node of a cluster."""


def apply_process_defaults() -> None:
    """Set them for this process and its child processes; call once in a command's entry."""
    for name, value in PROCESS_DEFAULTS.items():
        os.environ.setdefault(name, value)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Places of stores and files, read from the environment once per command."""

    home: pathlib.Path
    """RAYMLOPS_HOME: databases, artifacts and checkpoints on a single machine; default ~/raymlops. Not the
    working directory, because a submitted job runs in a temporary copy of it."""
    tracking_uri: str
    """MLFLOW_TRACKING_URI: store of runs and experiments; default the SQLite file mlflow.db under home."""
    registry_uri: str
    """MLFLOW_REGISTRY_URI: store of model versions; default the tracking URI."""
    artifact_root: str
    """RAYMLOPS_ARTIFACTS: where MLflow keeps files when the store is a local database; default artifacts under
    home."""
    storage_path: str
    """RAYMLOPS_STORAGE: checkpoints and search state; on a cluster a path or URI that every node reaches; default
    storage under home."""
    ray_address: str | None
    """RAY_ADDRESS: the cluster; if empty, one is started on this machine."""
    user: str
    """RAYMLOPS_USER, else USER: the name that is recorded with a version; without either git's user.email, or the
    login."""
    job_address: str = "http://127.0.0.1:8265"
    """RAY_API_SERVER_ADDRESS: the cluster's job server, to which `raymlops submit` sends jobs."""
    signing_key: pathlib.Path | None = None
    """RAYMLOPS_SIGNING_KEY: PEM file of the ed25519 key that signs evidence; default keys/signing.pem under home,
    made on first use."""
    trusted_keys: tuple[str, ...] = ()
    """RAYMLOPS_TRUSTED_KEYS: public keys whose signatures count in addition to your own, separated by commas or
    newlines: ed25519:BASE64, files, or folders of *.pub and *.pem files."""
    trusted_record: str | None = None
    """RAYMLOPS_TRUSTED_RECORD: the version that a rebuilt environment reproduces, whose record was already verified."""
    notify: pathlib.Path | None = None
    """RAYMLOPS_NOTIFY: the notify.yaml that says whom events are told; default notify.yaml beside the serving spec,
    else under home."""
    parent_run: str | None = None
    """MLFLOW_RUN_ID: the parent run of our runs, as set by `mlflow run`."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        env = os.environ if environ is None else environ
        home = pathlib.Path(env.get("RAYMLOPS_HOME") or "~/raymlops").expanduser().absolute()
        tracking_uri = env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"
        return cls(
            home=home,
            tracking_uri=tracking_uri,
            registry_uri=env.get("MLFLOW_REGISTRY_URI") or tracking_uri,
            artifact_root=env.get("RAYMLOPS_ARTIFACTS") or str(home / "artifacts"),
            storage_path=env.get("RAYMLOPS_STORAGE") or str(home / "storage"),
            ray_address=env.get("RAY_ADDRESS") or None,
            user=env.get("RAYMLOPS_USER") or env.get("USER") or find_user(),
            job_address=env.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265",
            signing_key=_to_path(env.get("RAYMLOPS_SIGNING_KEY")),
            trusted_keys=_to_entries(env.get("RAYMLOPS_TRUSTED_KEYS")),
            trusted_record=env.get("RAYMLOPS_TRUSTED_RECORD") or None,
            notify=_to_path(env.get("RAYMLOPS_NOTIFY")),
            parent_run=env.get("MLFLOW_RUN_ID") or None,
        )


@functools.cache
def find_user() -> str:
    """git's user.email, else the name of this process's user, else unknown."""
    try:
        command = ["git", "config", "--get", "user.email"]  # of whichever git is installed
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        if name := found.stdout.strip():
            return name
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return "unknown"


def _to_path(value: str | None) -> pathlib.Path | None:
    return pathlib.Path(value).expanduser().absolute() if value else None


def _to_entries(value: str | None) -> tuple[str, ...]:
    entries = (value or "").replace("\n", ",").split(",")
    return tuple(entry.strip() for entry in entries if entry.strip())


def export(values: Mapping[str, str]) -> None:
    """Set variables for this process and its child processes; values set by the user stay."""
    for name, value in values.items():
        os.environ.setdefault(name, value)
    ray = sys.modules.get("ray")
    if "RAY_AUTH_MODE" in values and ray is not None and not ray.is_initialized():
        # Ray read it at import: it would start a cluster with a token, and connect without one.
        from raymlops import ray_internals

        ray_internals.read_authentication_anew()


def choose_authentication() -> dict[str, str]:
    """Token authentication if this user has a token: Ray starts clusters with it by default, but joins them without."""
    path = pathlib.Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    return {"RAY_AUTH_MODE": "token"} if os.environ.get("RAY_AUTH_TOKEN") or path.is_file() else {}


def read_environment() -> dict[str, str]:
    """All environment variables of this process, for checks."""
    return dict(os.environ)
