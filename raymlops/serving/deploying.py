"""Puts a serving spec on a cluster, keeps what was deployed, and goes back to it. Acts through Ray Serve's
controller."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client

from raymlops.clusters import loopback
from raymlops.errors import ResourceError
from raymlops.serving import exposure, front, listeners
from raymlops.serving.app import Ingress  # noqa: F401  -- an import that fails here fails before anything is deployed
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec


def start_serve(spec: ServingSpec) -> None:
    """Start Serve's controller and ports unless they run. Ray must be initialised.

    Raises ForbiddenError when the application would answer other machines without keys, SpecError and ResourceError
    when the nodes would not speak the TLS that the spec asks for.
    """
    exposure.require_keys(spec)
    grpc_options: dict[str, Any] = {}
    if spec.grpc_port:
        from raymlops.serving.grpc_plane import SERVICER

        grpc_options = {"grpc_options": {"port": spec.grpc_port, "grpc_servicer_functions": [SERVICER]}}
    http_options: dict[str, Any] = {"host": spec.host, "port": spec.port, "keep_alive_timeout_s": 75}
    # A cluster whose Serve was ended may have been told of TLS before; another application's is left as it is.
    anew = _get_global_client(raise_if_no_controller_running=False) is None and not listeners.is_local()
    tls = front.absolute(spec.tls) if spec.tls else None
    behind_haproxy = (tls is not None or anew) and front.prepare_nodes(tls)
    if tls is not None and not behind_haproxy:
        http_options |= {
            "ssl_certfile": tls.certificate,
            "ssl_keyfile": tls.key,
            "ssl_ca_certs": tls.client_ca or None,
        }
    serve.start(proxy_location="EveryNode", http_options=http_options, **grpc_options)
    # Serve that runs already stays as it was started, whatever this spec says.
    running = _read_http_options()
    exposure.require_keys(spec, running.host or "")
    if tls is not None and not behind_haproxy and running.ssl_certfile != tls.certificate:
        raise ResourceError(
            "Serve runs on this cluster already, with other TLS files or none; end it with `serve shutdown`, "
            "and deploy again"
        )


def _read_http_options() -> Any:
    return ray.get(_get_global_client()._controller.get_http_config.remote())


def deploy(config: dict[str, Any], timeout_s: float = 300.0, report: Callable[[str], None] = print) -> None:
    """Apply one application's config beside those that run, and wait until it is healthy.

    Raises ResourceError when it does not become healthy; the replicas of the version before then keep
    answering.
    """
    apply([config])
    wait_healthy(config["name"], timeout_s, report)


def apply(configs: Sequence[dict[str, Any]]) -> None:
    """Tell Serve's controller to run these applications beside those that run; it starts them by itself."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    client = _get_global_client()
    names = {config["name"] for config in configs}
    others = [other for other in running_configs() if other["name"] not in names]
    client.deploy_apps(ServeDeploySchema(applications=[*others, *configs]))


def wait_healthy(name: str, timeout_s: float, report: Callable[[str], None]) -> None:
    """Until an application runs. Raises ResourceError when it failed, or does not run in time."""
    ends = time.monotonic() + timeout_s
    said = ""
    time.sleep(0.5)  # the controller takes the new config up in its next round
    while True:
        status = serve.status().applications.get(name)
        state = str(status.status.value) if status else "NOT_STARTED"
        if state == "RUNNING":
            return
        message = status.message if status else ""
        if state == "DEPLOY_FAILED" or time.monotonic() > ends:  # unhealthy may pass
            detail = message or _describe(status)
            raise ResourceError(f"Application {name!r} is {state} and not healthy: {_last_line(detail)}")
        if state != said:
            report(f"{name}: {state.lower()}")
            said = state
        time.sleep(0.2)


def replace(
    config: dict[str, Any],
    before: dict[str, Any] | None,
    timeout_s: float = 300.0,
    report: Callable[[str], None] = print,
) -> None:
    """Deploy `config`; if it does not become healthy, put back what was deployed `before`.

    Serve stops a failed update, but a single replica has then been given up for the new one, and nothing returns it.
    Raises ResourceError in either case.
    """
    try:
        deploy(config, timeout_s, report)
    except ResourceError as error:
        if before is None or before == config:
            raise
        report("The new version did not become healthy; going back to the one before")
        deploy(before, timeout_s, report)
        raise ResourceError(f"{error}. What was deployed before is serving again") from None


def running_configs() -> list[dict[str, Any]]:
    """The config of every application that runs, as Serve's controller was last told it."""
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()
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


def connect(settings: Settings, start: bool = False) -> None:
    """Join the cluster; `start` starts one on this machine where there is none. Raises ResourceError."""
    if ray.is_initialized():
        return
    address = settings.ray_address or ("local" if start else "auto")
    if address == "local":
        loopback.prepare_start()
    else:
        loopback.adapt_to(address)
    try:
        ray.init(address=address, namespace="raymlops", log_to_driver=start, include_dashboard=None)
    except (ConnectionError, RuntimeError) as error:
        raise ResourceError(
            f"No Ray cluster answers at {address!r}; start one with: ray start --head. If it runs, its token must be "
            f"in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token ({error})"
        ) from None
