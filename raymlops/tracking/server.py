"""A tracking server for a team: MLflow on a database, with users and passwords, serving artifacts itself. Makes its
command and secrets; the caller runs it."""

import configparser
import dataclasses
import os
import pathlib
import re
import secrets
import sys
from collections.abc import Mapping

from raymlops.errors import SpecError

_CACHE_S = (
    60  # a password is hashed once a minute and worker, not for each request: three times the throughput
)
_SECRET_LENGTH = 24


@dataclasses.dataclass(frozen=True)
class ServerPlan:
    """The command to run; `credentials` is the file with the first user's name and password."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    credentials: pathlib.Path


def plan_server(
    folder: pathlib.Path,
    *,
    database: str,
    artifacts: str,
    host: str,
    port: int,
    workers: int,
    allowed_hosts: str = "",
) -> ServerPlan:
    """Prepare the folder of a server. Raises SpecError for a database that would lose runs or reveal a password."""
    if not database.startswith(("postgresql://", "postgresql+", "mysql", "mssql", "sqlite:///")):
        raise SpecError(
            f"--database is {database!r}; expected a database's URI such as postgresql://mlflow@db.internal/mlflow"
        )
    if re.search(r"://[^/@\s]*:[^/@\s]+@", database):
        raise SpecError(
            "--database holds a password, which every user of this machine sees in the process list; put it "
            "into ~/.pgpass (HOST:PORT:DATABASE:USER:PASSWORD, mode 0600), or a file that PGPASSFILE names"
        )
    if "://" not in artifacts:
        pathlib.Path(artifacts).mkdir(parents=True, exist_ok=True)
        artifacts = str(pathlib.Path(artifacts).absolute())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    credentials = folder / "credentials"
    user, password = _keep_credentials(credentials)
    settings = folder / "server.ini"
    _write(settings, _to_ini({"mlflow": {
        "default_permission": "READ",
        "database_uri": database.replace("%", "%%"),
        "admin_username": user,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "grant_default_workspace_access": "false",
        "auth_cache_ttl_seconds": str(_CACHE_S),
    }}))  # fmt: skip
    command = [
        sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--backend-store-uri", database,
        "--artifacts-destination", artifacts, "--host", host, "--port", str(port), "--workers", str(workers),
    ]  # fmt: skip
    if allowed_hosts:
        command += ["--allowed-hosts", allowed_hosts]
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_USERNAME": user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _keep_secret(folder / "session_key"),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    return ServerPlan(tuple(command), environment, credentials)


def _keep_credentials(path: pathlib.Path) -> tuple[str, str]:
    """The first user, created once; the file has the form that MLflow's clients read at ~/.mlflow/credentials."""
    if not path.exists():
        values = {
            "mlflow_tracking_username": "admin",
            "mlflow_tracking_password": secrets.token_urlsafe(_SECRET_LENGTH),
        }
        _write(path, _to_ini({"mlflow": values}))
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(path)
    return parser["mlflow"]["mlflow_tracking_username"], parser["mlflow"]["mlflow_tracking_password"]


def _keep_secret(path: pathlib.Path) -> str:
    if not path.exists():
        _write(path, secrets.token_hex(_SECRET_LENGTH))
    return path.read_text().strip()


def _write(path: pathlib.Path, text: str) -> None:
    """Write a file that others cannot read at any moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _to_ini(sections: Mapping[str, Mapping[str, str]]) -> str:
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
        for name, values in sections.items()
    )
