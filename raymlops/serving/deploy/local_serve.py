"""Serves a spec from this process until it is interrupted: starts Ray and Serve, waits, sends the examples, shuts
down."""

import contextlib
import json
import os
import shlex
import signal
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil
import ray

from raymlops.errors import AuthenticationError, RaymlopsError
from raymlops.runtime import sources
from raymlops.serving.deploy import client, conflicts, history, rollout, spec_trial
from raymlops.serving.proxy import exposure
from raymlops.serving.transport import drain
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec


def run(
    spec: ServingSpec,
    settings: Settings,
    *,
    once: bool = False,
    key: str = "",
    report: Callable[[str], Any] = print,
) -> None:
    """Serve until SIGINT or SIGTERM, then answer what is in flight; with `once`, only until each model has answered
    its example, sent with `key`.

    On a cluster that already ran, only this application is stopped. Raises KeyboardInterrupt for a signal before it
    serves.
    """
    exposure.require_keys(spec)
    if settings.ray_address is None and not ray.is_initialized():
        conflicts.require_free_ports(spec)
    pinned = sources.pin(spec, settings)
    spec_trial.try_models(pinned, settings)
    config = history.make_config(pinned, settings)
    started = client.connect(settings, start=True, tell=report)
    stop = _Signals()  # instead of Ray's handler, which ends the process
    ended = threading.Event()
    if started:
        threading.Thread(target=_watch_cluster, args=(ended, report), name="cluster", daemon=True).start()
    alone, before = False, None
    try:
        client.require_place(spec, config)
        alone, before = not client.is_serving(), rollout.find_running(spec.name)
        client.start_serve(pinned)
        client.replace(config, before, report=report)
        base = _tell_where(pinned, report)
        if once:
            certificate = pinned.tls.certificate if pinned.tls else ""
            for name in (*pinned.models, *pinned.graphs):
                report(ask_example(base, name, key, certificate))
            if pinned.many is not None:
                _ask_folder(base, key, certificate, report)
        else:
            stop.wait()
            _end_gently(pinned, started, stop, report)
    except KeyboardInterrupt:
        if not started and before is None and client.is_serving():
            client.take_away(spec.name, 0, report)
        raise
    finally:
        stop.hurries = True
        children = psutil.Process().children(recursive=True) if started else []
        # other applications may have been deployed since
        if started or (alone and not client.running_configs()):
            client.shut_down(_SHUTDOWN_S, stop.hurry)
        if started:
            ended.set()
            ray.shutdown()
            _end(children)


_SHUTDOWN_S = 60.0


class _Signals:
    """SIGINT and SIGTERM: before it serves they interrupt; later the first one stops it, and the second ends it at
    once."""

    def __init__(self) -> None:
        self.hurry = threading.Event()
        self.hurries = False
        self._stop = threading.Event()
        self._serves = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def _take(self, *_: Any) -> None:
        if self._stop.is_set() or self.hurries:
            self.hurry.set()
        elif self._serves:
            self._stop.set()
        else:
            raise KeyboardInterrupt

    def wait(self) -> None:
        """Wait for the first signal."""
        self._serves = True
        while not self._stop.wait(1.0):
            pass


def _tell_where(pinned: ServingSpec, report: Callable[[str], Any]) -> str:
    host = "127.0.0.1" if pinned.host == "0.0.0.0" else pinned.host  # noqa: S104
    base = f"{'https' if pinned.tls else 'http'}://{host}:{pinned.port}"
    base += "" if pinned.route == "/" else pinned.route
    for name, model in pinned.models.items():
        report(f"{name} version {model.version}: POST {base}/v2/models/{name}/infer")
    for name in pinned.graphs:
        report(f"{name}, a graph: POST {base}/v2/models/{name}/infer")
    address = ray.get_runtime_context().gcs_address
    report(f"Change it while it serves: RAY_ADDRESS={shlex.quote(address)} raymlops deploy FILE")
    report(f"Documentation and examples: {base}/docs")
    return base


def _end_gently(pinned: ServingSpec, started: bool, stop: _Signals, report: Callable[[str], Any]) -> None:
    """Answer what is in flight, for at most `drain_s`: Serve itself ends its proxies at once."""
    if not started:
        client.take_away(pinned.name, pinned.drain_s + _SHUTDOWN_S, report, stop.hurry)
        return
    report("Stopping: no new requests are accepted")
    lost = drain.drain({pinned.port, pinned.grpc_port}, pinned.drain_s, report, stop.hurry)
    if lost:
        report(
            f"Not answered: {lost} in flight"
            + ("" if stop.hurry.is_set() else "; drain_s gives them more time")
        )


def _watch_cluster(ended: threading.Event, report: Callable[[str], Any]) -> None:
    """Ends this process if the cluster that it started is gone, since calls to it would wait forever: as when a
    signal is sent to all processes at once. The process of the control store may still exist, but not answer."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    logs = f"{ray._private.worker.global_worker.node.get_session_dir_path()}/logs"
    refused = 0
    while not ended.wait(1.0):
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except ConnectionRefusedError:
            refused += 1
        except OSError:  # the machine may only be busy
            continue
        else:
            refused = 0
        if refused >= _REFUSALS and not ended.is_set():
            report(
                f"Ray's control store has ended, and with it the applications; see gcs_server.out in {logs}. A "
                "service manager must signal `raymlops serve` alone, and not all of its processes (systemd: "
                "KillMode=mixed)"
            )
            _end(psutil.Process().children(recursive=True))
            os._exit(1)


_REFUSALS = 2
"""Timeouts of connections, one after another."""


def _end(children: list[psutil.Process]) -> None:
    """End processes that outlive their cluster: an HAProxy that still drains connections would keep its port."""
    for process in children:
        with contextlib.suppress(psutil.Error):
            if process.name() == "haproxy":
                process.terminate()


_ASKED = 10
"""Number of a folder's models that are sent their examples; it may have thousands."""


def _ask_folder(base: str, key: str, certificate: str, report: Callable[[str], Any]) -> None:
    """Send the first models of a folder their examples; one that cannot be served is reported, and does not stop the
    others."""
    names = [
        model["name"] for model in json.loads(_fetch(f"{base}/v2/repository/index", key, certificate, b"{}"))
    ]
    for name in names[:_ASKED]:
        try:
            # loads the model, so that its example is known
            _fetch(f"{base}/v2/models/{name}", key, certificate)
        except AuthenticationError:
            raise
        except RaymlopsError as error:
            report(f"{name} cannot be served: {error}")
        else:
            report(ask_example(base, name, key, certificate))
    if len(names) > _ASKED:
        report(f"{len(names) - _ASKED} more models of the folder were not tried")


def ask_example(base: str, name: str, key: str = "", certificate: str = "") -> str:
    """Send a model its example over HTTP; returns the answer as text. With TLS, the server must show `certificate`.

    Raises AuthenticationError, RaymlopsError.
    """
    path = f"/v2/models/{name}/infer"
    asked = json.loads(_fetch(f"{base}/openapi.json", key, certificate))["paths"][path]["post"][
        "requestBody"
    ]["content"]
    question = json.dumps(asked["application/json"]["example"]).encode()
    return f"{name} answered over HTTP: {_fetch(base + path, key, certificate, question)}"


def _fetch(url: str, key: str, certificate: str, question: bytes | None = None) -> str:
    context = None
    if certificate:
        context = ssl.create_default_context(cafile=certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # this certificate itself, whoever signed it
        context.check_hostname = False  # it is called by its address
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, question, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as response:  # noqa: S310
            return response.read().decode()  # type: ignore[no-any-return]
    except urllib.error.HTTPError as error:
        told = error.read().decode(errors="replace")
        if error.code in (401, 403):
            raise AuthenticationError(
                f"{url} requires an API key: give --key, or RAYMLOPS_KEY, one that may infer ({told})"
            ) from None
        raise RaymlopsError(f"{url} answered {error.code}: {told}") from None
