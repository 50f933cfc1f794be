"""Deploys a serving spec to a cluster, waits for it, removes it, and restores the previous one. Acts through Ray
Serve's controller."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve.schema import ServeDeploySchema

from raymlops.clusters import connection, shortage
from raymlops.errors import ResourceError
from raymlops.serving import serve_internals, startup_failures
from raymlops.serving.deploy import conflicts
from raymlops.serving.proxy import exposure, listeners
from raymlops.serving.proxy import tls as front
from raymlops.serving.replica.app import Ingress  # noqa: F401  -- an import that fails here fails before anything is deployed
from raymlops.serving.transport import drain
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec


def start_serve(spec: ServingSpec) -> None:
    """Start Serve's controller and ports unless they run. Ray must be initialised.

    Raises ForbiddenError if other machines could use the application without keys, SpecError and ResourceError if
    nodes would not use the TLS of the spec.
    """
    exposure.require_keys(spec)
    grpc_options: dict[str, Any] = {}
    if spec.grpc_port:
        from raymlops.serving.transport.grpc_service import SERVICER

        grpc_options = {"grpc_options": {"port": spec.grpc_port, "grpc_servicer_functions": [SERVICER]}}
    http_options: dict[str, Any] = {"host": spec.host, "port": spec.port, "keep_alive_timeout_s": 75}
    # An earlier Serve of this cluster, now ended, may have set TLS; the setting of another application is kept.
    client = serve_internals.find_client()
    anew = client is None and not listeners.is_local()
    tls = spec.tls.absolute() if spec.tls else None
    behind_haproxy = (tls is not None or anew) and front.prepare_nodes(tls)
    if tls is not None and not behind_haproxy:
        http_options |= {
            "ssl_certfile": tls.certificate,
            "ssl_keyfile": tls.key,
            "ssl_ca_certs": tls.client_ca or None,
        }
    serve.start(proxy_location="EveryNode", http_options=http_options, **grpc_options)
    # A running Serve keeps the options with which it was started, whatever this spec says.
    running = serve_internals.read_http_options()
    exposure.require_keys(spec, running.host or "")
    if tls is not None and not behind_haproxy and running.ssl_certfile != tls.certificate:
        raise ResourceError(
            "Serve runs on this cluster already, with other TLS files or none; stop it with `serve shutdown`, "
            "and deploy again"
        )


def require_place(spec: ServingSpec, config: Mapping[str, Any]) -> None:
    """Before a deployment: raises SpecError if the application's route, name or ports are taken on the cluster, if
    Serve runs there."""
    if not is_serving():
        return
    conflicts.require_own_route(config, running_configs())
    grpc = serve_internals.read_grpc_options()
    conflicts.require_ports(
        spec, serve_internals.read_http_options().port, grpc.port if grpc.grpc_servicer_functions else 0
    )


def read_port() -> int:
    """The HTTP port of Serve on this cluster, which all its applications share."""
    return int(serve_internals.read_http_options().port)


def deploy(config: dict[str, Any], timeout_s: float = 300.0, report: Callable[[str], None] = print) -> None:
    """Apply one application's config beside those that run, and wait until it is healthy.

    Raises ResourceError if it does not become healthy; the replicas of the previous version then keep answering.
    """
    stale = _read_messages(config["name"])
    apply([config])
    wait_healthy(config["name"], timeout_s, report, stale)


def _read_messages(name: str) -> dict[str, str]:
    """Serve's present messages on an application's deployments, which stay until a new version has been built."""
    status = serve.status().applications.get(name)
    return {part: of.message for part, of in status.deployments.items()} if status else {}


def apply(configs: Sequence[dict[str, Any]]) -> None:
    """Tell Serve's controller to run these applications beside those that run; it starts them by itself."""
    client = serve_internals.get_client()
    names = {config["name"] for config in configs}
    others = [other for other in running_configs() if other["name"] not in names]
    client.deploy_apps(ServeDeploySchema(applications=[*others, *configs]))


_STARTS = 3
"""Failed starts of a replica, each possibly with a transient cause, before the deployment is given up."""


def wait_healthy(
    name: str, timeout_s: float, report: Callable[[str], None], stale: Mapping[str, str] | None = None
) -> None:
    """Wait until an application runs. Raises ResourceError if it failed, or does not run in time, with the cause that
    the replicas report; `stale` are earlier messages on its deployments, which are not the cause."""
    began = time.monotonic()
    said = ""
    seen: dict[str, set[str]] = {}
    time.sleep(0.5)  # the controller reads the new config in its next round
    while True:
        status = serve.status().applications.get(name)
        state = str(status.status.value) if status else "NOT_STARTED"
        if state == "RUNNING":
            return
        deployments = {
            part: of
            for part, of in (status.deployments.items() if status else ())
            if not of.message or of.message != (stale or {}).get(part)
        }
        waited = time.monotonic() - began
        given_up = startup_failures.count_failures(deployments, seen) >= _STARTS
        if state == "DEPLOY_FAILED" or given_up or waited > timeout_s:  # unhealthy may be transient
            cause = startup_failures.describe(deployments, status.message if status else "")
            if cause == startup_failures.UNKNOWN:
                cause = shortage.read_waiting() or cause
            late = f" within {timeout_s:.0f} s" if not given_up and state != "DEPLOY_FAILED" else ""
            raise ResourceError(f"Application {name!r} did not become healthy{late}: {cause}")
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
    """Deploy `config`; if it does not become healthy, restore the deployment `before`, or with None remove the broken
    application.

    Serve stops a failed update, but may have stopped a single replica in favour of the new one, and does not restore
    it. Raises ResourceError in either case.
    """
    try:
        deploy(config, timeout_s, report)
    except ResourceError as error:
        if before is None:
            remove_application(config["name"], 10, report)
            raise ResourceError(f"{error}. It was removed again") from None
        if before == config:
            raise
        report("The new version did not become healthy; restoring the previous one")
        deploy(before, timeout_s, report)
        raise ResourceError(f"{error}. The previous deployment is serving again") from None


def remove_application(
    name: str, seconds: float, report: Callable[[str], Any], hurry: threading.Event | None = None
) -> None:
    """Remove an application: requests in flight are answered, later ones get 404. Returns when its replicas have
    ended (Serve ends them in any case), after so many seconds, or when `hurry` is set."""
    hurry = hurry or threading.Event()
    client = serve_internals.get_client()
    client.delete_apps([name], blocking=False)  # first: whoever stops this process may not wait long
    if waiting := drain.count_requests(name):
        report(f"{name}: waits for {waiting} requests in flight")
    ends = time.monotonic() + seconds
    while name in serve.status().applications and time.monotonic() < ends and not hurry.wait(0.2):
        pass


def shut_down(seconds: float, hurry: threading.Event) -> None:
    """Stop Serve on this cluster, and wait until it has stopped, for so many seconds, or until `hurry` is set."""
    if not serve_internals.begin_shutdown():
        return
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not hurry.wait(0.1):
        try:
            serve_internals.find_controller()
        except ValueError:
            break
    serve_internals.forget_client()


def is_serving() -> bool:
    """Whether Serve runs on the cluster, with or without applications."""
    return serve_internals.find_client() is not None


def list_running() -> list[str]:
    """The names of applications that answer now or did before; those that never started are left out."""
    applications = serve.status().applications if is_serving() else {}
    return [name for name, status in applications.items() if status.status.value in ("RUNNING", "UNHEALTHY")]


def running_configs() -> list[dict[str, Any]]:
    """The config of every running application, as Serve's controller last received it; empty if no Serve runs."""
    if not is_serving():
        return []
    details = serve_internals.get_client().get_serve_details()
    applications = details.get("applications", {}).values()
    return [app["deployed_app_config"] for app in applications if app.get("deployed_app_config")]


def connect(settings: Settings, start: bool = False, tell: Callable[[str], Any] | None = None) -> bool:
    """Join the cluster; `start` starts one on this machine if none is named, and then returns true. Raises
    ResourceError."""
    started = connection.join(settings, "start" if start else "find", logs=start, dashboard=start, tell=tell)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # Serve logs this itself
    return started
