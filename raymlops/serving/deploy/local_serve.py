"""Serves a spec from this process for as long as a context lasts, or until a signal: starts Ray and Serve, waits, shuts
down."""

import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import ray

from raymlops import ray_internals
from raymlops.runtime import sources
from raymlops.serving.deploy import client, conflicts, history, rollout, spec_trial
from raymlops.serving.deploy.endpoint_client import EndpointClient
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
    signals = _Signals()
    with serving(spec, settings, report=report, signals=signals, drain_s=0 if once else None) as served:
        if not once:
            signals.wait()
            return
        asked = served.connect(key)
        for name in (*served.spec.models, *served.spec.graphs):
            report(asked.ask_example(name))
        if served.spec.many is not None:
            asked.ask_folder(report)


@dataclasses.dataclass(frozen=True)
class Served:
    """An application that answers at `url`; `spec` has its versions pinned."""

    spec: ServingSpec
    url: str

    def connect(self, key: str = "") -> EndpointClient:
        return EndpointClient(self.url, key, self.spec.tls.certificate if self.spec.tls else "")


@contextlib.contextmanager
def serving(
    spec: ServingSpec,
    settings: Settings,
    *,
    report: Callable[[str], Any] = print,
    signals: "_Signals | None" = None,
    drain_s: float | None = None,
) -> Iterator[Served]:
    """Serve a spec as long as the context lasts; what is in flight then has `drain_s`, by default the spec's, to be
    answered.

    Joins the cluster of the settings, or that of this process; where there is neither, one is started here, and ended
    with the context. On a cluster that was there before, only this application ends, and Serve where nothing else
    runs on it. With `signals` the process is this application's alone: it ends with its cluster.
    """
    exposure.require_keys(spec)
    if settings.ray_address is None and not ray.is_initialized():
        conflicts.require_free_ports(spec)
    pinned = sources.pin(spec, settings)
    spec_trial.try_models(pinned, settings)
    config = history.make_config(pinned, settings)
    started = client.connect(settings, start=True, tell=report)
    hurry, ended = threading.Event(), threading.Event()
    if signals is not None:
        signals.take()
        hurry = signals.hurry
        if started:
            threading.Thread(target=_watch_cluster, args=(ended, report), name="cluster", daemon=True).start()
    alone = False
    try:
        alone = not client.is_serving()
        _deploy(pinned, config, started, report)
        url = find_url(pinned)
        for line in describe(pinned, url):
            report(line)
        try:
            yield Served(pinned, url)
        finally:
            if ray.is_initialized():
                _terminate(pinned, started, pinned.drain_s if drain_s is None else drain_s, hurry, report)
    finally:
        if signals is not None:
            signals.hurries = True
        children = psutil.Process().children(recursive=True) if started else []
        # Other applications may have been deployed since.
        if ray.is_initialized() and (started or (alone and not client.running_configs())):
            client.shut_down(_SHUTDOWN_S, hurry)
        if started:
            ended.set()
            ray.shutdown()
            _end(children)


def _deploy(pinned: ServingSpec, config: dict[str, Any], started: bool, report: Callable[[str], Any]) -> None:
    """Deploy it; if it is interrupted before it serves, remove it if other applications stay."""
    before = None
    try:
        client.require_place(pinned, config)
        before = rollout.find_running(pinned.name)
        client.start_serve(pinned)
        client.replace(config, before, report=report)
    except KeyboardInterrupt:
        if not started and before is None and client.is_serving():
            client.remove_application(pinned.name, 0, report)
        raise


_SHUTDOWN_S = 60.0


class _Signals:
    """SIGINT and SIGTERM: before it serves they interrupt; later the first one stops it, and the second ends it at
    once."""

    def __init__(self) -> None:
        self.hurry = threading.Event()
        self.hurries = False
        self._stop = threading.Event()
        self._serves = False

    def take(self) -> None:
        """From now on; behind Ray's handlers, which end the process."""
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


def find_url(pinned: ServingSpec) -> str:
    """The application's address on this machine."""
    host = "127.0.0.1" if pinned.host in ("0.0.0.0", "::") else pinned.host  # noqa: S104
    base = f"{'https' if pinned.tls else 'http'}://{host}:{client.read_port()}"
    return base if pinned.route == "/" else base + pinned.route


def describe(pinned: ServingSpec, url: str) -> Iterator[str]:
    """Addresses and commands for the person who serves it."""
    for name, model in pinned.models.items():
        yield f"{name} version {model.version}: POST {url}/v2/models/{name}/infer"
    for name in pinned.graphs:
        yield f"{name}, a graph: POST {url}/v2/models/{name}/infer"
    address = ray.get_runtime_context().gcs_address
    yield f"Change it while it serves: RAY_ADDRESS={shlex.quote(address)} raymlops deploy FILE"
    yield f"Documentation and examples: {url}/docs"


def _terminate(
    pinned: ServingSpec,
    started: bool,
    drain_s: float,
    hurry: threading.Event,
    report: Callable[[str], Any],
) -> None:
    """Answer what is in flight, for at most `drain_s`: Serve itself ends its proxies at once."""
    if not started:
        client.remove_application(pinned.name, drain_s + _SHUTDOWN_S, report, hurry)
        return
    if not drain_s:
        return
    report("Stopping: no new requests are accepted")
    lost = drain.drain({pinned.port, pinned.grpc_port}, drain_s, report, hurry)
    if lost:
        report(
            f"Not answered: {lost} in flight" + ("" if hurry.is_set() else "; drain_s gives them more time")
        )


def _watch_cluster(ended: threading.Event, report: Callable[[str], Any]) -> None:
    """Ends this process if the cluster that it started is gone, since calls to it would wait forever: as when a
    signal is sent to all processes at once. The process of the control store may still exist, but not answer."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    logs = f"{ray_internals.find_session_folder()}/logs"
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
