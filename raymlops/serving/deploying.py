"""Puts a serving spec on a cluster, keeps what was deployed, and goes back to it. Acts through Ray Serve's
controller."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import serve

from raymlops.errors import NotFoundError, ResourceError
from raymlops.serving.app import Ingress  # noqa: F401  -- an import that fails here fails before anything is deployed
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec

BUILDER = "raymlops.serving.app:build_app"


def start_serve(spec: ServingSpec) -> None:
    """Start Serve's controller and ports unless they run. Ray must be initialised."""
    grpc_options: dict[str, Any] = {}
    if spec.grpc_port:
        from raymlops.serving.grpc_plane import SERVICER

        grpc_options = {"grpc_options": {"port": spec.grpc_port, "grpc_servicer_functions": [SERVICER]}}
    serve.start(
        proxy_location="EveryNode",
        http_options={"host": spec.host, "port": spec.port, "keep_alive_timeout_s": 75},
        **grpc_options,
    )


def make_config(spec: ServingSpec, settings: Settings) -> dict[str, Any]:
    """The application in Serve's own form; it can be written to a file and given to `serve deploy`."""
    variables = {
        "RAYMLOPS_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_REGISTRY_URI": settings.registry_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    return {
        "name": spec.name,
        "route_prefix": spec.route,
        "import_path": BUILDER,
        "runtime_env": {"env_vars": variables},
        "args": spec.model_dump(mode="json"),
    }


def deploy(config: dict[str, Any], timeout_s: float = 300.0, report: Callable[[str], None] = print) -> None:
    """Apply one application's config beside those that run, and wait until it is healthy.

    Raises ResourceError when it does not become healthy; the replicas of the version before then keep
    answering.
    """
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    client = _get_global_client()
    name = config["name"]
    others = [other for other in _running_configs(client) if other["name"] != name]
    client.deploy_apps(ServeDeploySchema(applications=[*others, config]))
    ends = time.monotonic() + timeout_s
    said = ""
    time.sleep(0.5)  # the controller takes the new config up in its next round
    while True:
        status = serve.status().applications.get(name)
        state = str(status.status.value) if status else "NOT_STARTED"
        if state == "RUNNING":
            return
        message = status.message if status else ""
        if state in ("DEPLOY_FAILED", "UNHEALTHY") or time.monotonic() > ends:
            detail = message or _describe(status)
            raise ResourceError(f"Application {name!r} is {state} and not healthy: {_last_line(detail)}")
        if state != said:
            report(f"{name}: {state.lower()}")
            said = state
        time.sleep(0.2)


def _running_configs(client: Any) -> list[dict[str, Any]]:
    details = client.get_serve_details()
    applications = details.get("applications", {}).values()
    return [app["deployed_app_config"] for app in applications if app.get("deployed_app_config")]


def _describe(status: Any) -> str:
    deployments = getattr(status, "deployments", {}) or {}
    return "; ".join(f"{name}: {d.message}" for name, d in deployments.items() if d.message) or "no message"


def _last_line(text: str) -> str:
    """Serve's messages are whole tracebacks; the last line that says something is the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = [line for line in lines if "Error: " in line]
    return (ours or lines or [text])[-1]


class History:
    """What was deployed, newest last, as files under the storage path, which every machine of a cluster
    reaches."""

    def __init__(self, settings: Settings, application: str) -> None:
        self._folder = pathlib.Path(settings.storage_path) / "deployments" / application

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in self._paths()]

    def add(self, config: dict[str, Any]) -> None:
        """Remember a config that has become healthy, unless it is the newest already."""
        paths = self._paths()
        if paths and json.loads(paths[-1].read_text()) == config:
            return
        number = int(paths[-1].stem) + 1 if paths else 1
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{number:06d}.json").write_text(json.dumps(config, indent=1))

    def previous(self) -> dict[str, Any]:
        """The config before the newest. Raises NotFoundError."""
        configs = self.read()
        if len(configs) < 2:
            raise NotFoundError(
                "There is no earlier deployment to go back to; deploy one with: raymlops deploy FILE"
            )
        return configs[-2]

    def drop_newest(self) -> None:
        self._paths()[-1].unlink()

    def _paths(self) -> list[pathlib.Path]:
        return sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []


def connect(settings: Settings, start: bool = False) -> None:
    """Join the cluster; `start` starts one on this machine where there is none. Raises ResourceError."""
    if ray.is_initialized():
        return
    address = settings.ray_address or ("local" if start else "auto")
    try:
        ray.init(address=address, namespace="raymlops", log_to_driver=start, include_dashboard=None)
    except ConnectionError as error:
        raise ResourceError(
            f"No Ray cluster at {address!r}; start one with: ray start --head ({error})"
        ) from None
