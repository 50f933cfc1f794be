"""Sends a verb to a cluster as a Ray job, follows its log, and returns its exit code. The scripts that the job runs
are in jobs/."""

import asyncio
import dataclasses
import logging
import pathlib
import shlex
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from raymlops import secret_texts
from raymlops.clusters import packaging
from raymlops.clusters.capacity import NodeKind
from raymlops.errors import ForbiddenError, NotFoundError, ResourceError, unknown_name

STOPPED = 130


@dataclasses.dataclass(frozen=True)
class Job:
    """A job: the entry script with its arguments, environment variables, and packages to install."""

    verb: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    requirements: tuple[str, ...] = ()

    @property
    def entrypoint(self) -> str:
        return shlex.join(["python", f"jobs/{self.verb}.py", *self.arguments])


def require_verb(root: pathlib.Path, verb: str) -> None:
    """Raises NotFoundError if jobs/ has no script of that name."""
    known = sorted(path.stem for path in (root / "jobs").glob("*.py") if path.stem != "__init__")
    if verb not in known:
        raise NotFoundError(f"{unknown_name('job', verb, known)} (scripts of {root / 'jobs'})")


def require_no_secrets(job: Job) -> None:
    """Raises ForbiddenError if a job's metadata, which the dashboard shows to everyone, would hold a secret."""
    remedy = (
        "it would be in the job's metadata, which everyone can read; keep it on the cluster instead, such as in "
        "~/.mlflow/credentials or a Kubernetes Secret"
    )
    for name, value in job.variables.items():
        if (secret_texts.names_secret(name) and value) or _holds_secret(value):
            raise ForbiddenError(f"The variable {name} looks like a secret; {remedy}")
    for place, argument in enumerate(job.arguments):
        following = job.arguments[place + 1] if place + 1 < len(job.arguments) else "--"
        name, equals, value = argument.partition("=")
        named = secret_texts.names_secret(name)
        # `--password=x`, `password=x`, and `--password x`.
        given = bool(value) if equals else argument.startswith("-") and not following.startswith("-")
        if (named and given) or _holds_secret(argument):
            raise ForbiddenError(f"The argument {name[:40]!r} looks like a secret; {remedy}")


def _holds_secret(text: str) -> bool:
    return secret_texts.holds_password(text) or any(secret_texts.find_secrets(text))


def read_requirements(root: pathlib.Path) -> tuple[str, ...]:
    """Lines for pip of what a cluster with only Ray lacks: the dependencies in `root`, at its pinned versions.

    Ray is among them, for its extras; if the cluster's Ray has another version, the cluster refuses to change it.
    """
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        pins = [
            Requirement(line) for line in (root / "constraints.txt").read_text().splitlines() if "==" in line
        ]
    except FileNotFoundError as error:
        raise NotFoundError(f"No {error.filename}; --install reads what to install from it") from None
    pinned = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    lines = []
    for text in (*project["dependencies"], *project["optional-dependencies"]["examples"]):
        wanted = Requirement(text)
        wanted.specifier = pinned.get(canonicalize_name(wanted.name), wanted.specifier)
        lines.append(str(wanted))
    return (*lines, "-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt")


def connect(address: str) -> Any:
    """A client of a cluster's job server. Raises ResourceError with a remedy if it does not answer."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ForbiddenError(
            f"The cluster at {address} refused the token: {str(error).splitlines()[0]}; give the cluster's token "
            "in RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"No job server at {address}: {' '.join(str(error).split())[:200]}; open a tunnel with `ray dashboard "
            "cluster.yaml`, start a cluster with `raymlops cluster start`, or give --address"
        ) from None


def send(client: Any, package: packaging.Package, job: Job) -> tuple[str, dict[str, float]]:
    """Upload and submit; returns the job's id and the seconds that packing and sending took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="raymlops-") as folder:
        file = packaging.pack(package, pathlib.Path(folder) / "working_dir.zip")
        packed = time.monotonic()
        environment: dict[str, Any] = {"working_dir": str(file)}
        if job.variables:
            environment["env_vars"] = dict(job.variables)
        if job.requirements:
            environment["pip"] = {"packages": list(job.requirements), "pip_check": False}
        identity = _submit(
            client, entrypoint=job.entrypoint, runtime_env=environment, metadata={"raymlops.verb": job.verb}
        )
    return identity, {"pack": packed - began, "send": time.monotonic() - packed}


def _submit(client: Any, patience: float = 120, **job: Any) -> str:
    """Submit, and wait for a cluster that is starting: its job server answers before it can run jobs."""
    ends = time.monotonic() + patience
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if "No available agent" in str(error) and time.monotonic() < ends:
                time.sleep(1)
                continue
            cause = " ".join(str(error).split())[:300]
            raise ResourceError(f"The cluster refused the job: {cause}") from None


def follow(client: Any, identity: str, write: Callable[[str], None]) -> int:
    """Write the job's log as it grows until the job ends; returns its exit code."""
    shown = 0
    while True:
        info = _info(client, identity)
        try:
            shown = asyncio.run(_tail(client, identity, shown, write))
        except (RuntimeError, OSError) as error:  # lost the connection to the log; the job continues
            logging.getLogger(__name__).debug("log of %s lost: %s", identity, error)
        info = _info(client, identity)
        if info.status.is_terminal():
            return to_exit_code(info, write)
        time.sleep(0.2)


async def _tail(client: Any, identity: str, shown: int, write: Callable[[str], None]) -> int:
    """Continue the log after the characters already shown: the server sends it from the beginning each time."""
    read = 0
    async for text in client.tail_job_logs(identity):
        if read + len(text) > shown:
            write(text[max(0, shown - read) :])
        read += len(text)
        shown = max(shown, read)
    return shown


def _info(client: Any, identity: str) -> Any:
    try:
        return client.get_job_info(identity)
    except RuntimeError as error:
        if "404" in str(error):
            raise NotFoundError(f"The cluster has no job {identity!r}; see `ray job list`") from None
        raise ResourceError(
            f"Lost the connection to the cluster while following {identity}: {str(error)[:200]}"
        ) from None


def to_exit_code(info: Any, write: Callable[[str], None]) -> int:
    """0 if it succeeded, else the script's exit code; for a stopped job, the exit code of an interrupt."""
    status = str(info.status.value)
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return STOPPED
    code = int(info.driver_exit_code or 1)
    if info.driver_exit_code is None:  # it never started, so the log does not say why
        write(f"{info.message}\n")
    return code


def read_kinds(address: str) -> list[NodeKind]:
    """The live nodes, each as its own kind. Raises ResourceError if the cluster does not list them."""
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        # By default Ray raises because dead nodes are missing from the answer.
        nodes = list_nodes(
            address=address, filters=[("state", "=", "ALIVE")], limit=10_000, detail=True,
            raise_on_missing_output=False,
        )  # fmt: skip
    except (RayStateApiException, OSError) as error:
        raise ResourceError(f"The cluster at {address} does not list its nodes: {str(error)[:200]}") from None
    return [
        NodeKind(
            node.node_id[:8], node.resources_total or {}, 1, getattr(node, "labels", None) or {}, node.node_ip
        )
        for node in nodes
    ]
