"""Serves a spec from this process until it is interrupted: starts Ray and Serve, waits, asks once, shuts
down."""

import contextlib
import json
import shlex
import signal
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil
import ray
from ray import serve

from raymlops.errors import AuthenticationError, RaymlopsError
from raymlops.serving import deploying, exposure, history, sources, spec_trial
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
    """Serve until SIGINT or SIGTERM; with `once`, only until each model has answered its example, asked with `key`."""
    exposure.require_keys(spec)
    pinned = sources.pin(spec, settings)
    spec_trial.try_models(pinned, settings)
    started = not ray.is_initialized()
    deploying.connect(settings, start=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        deploying.start_serve(pinned)
        deploying.deploy(history.make_config(pinned, settings), report=report)
        base = f"{'https' if spec.tls else 'http'}://{'127.0.0.1' if spec.host == '0.0.0.0' else spec.host}:{spec.port}"  # noqa: S104
        base += "" if spec.route == "/" else spec.route
        for name, model in pinned.models.items():
            report(f"{name} version {model.version}: POST {base}/v2/models/{name}/infer")
        for name in pinned.graphs:
            report(f"{name}, a graph: POST {base}/v2/models/{name}/infer")
        address = ray.get_runtime_context().gcs_address
        report(f"Change it while it serves: RAY_ADDRESS={shlex.quote(address)} raymlops deploy FILE")
        report(f"Documentation and examples: {base}/docs")
        if once:
            for name in (*pinned.models, *pinned.graphs):
                report(ask_example(base, name, key, pinned.tls.certificate if pinned.tls else ""))
        else:
            _wait(stop)
    finally:
        children = psutil.Process().children(recursive=True) if started else []
        serve.shutdown()
        if started:
            ray.shutdown()
            _end(children)


def _end(children: list[psutil.Process]) -> None:
    """End what outlives its cluster: an HAProxy that was still draining connections, and would keep its port."""
    for process in children:
        with contextlib.suppress(psutil.Error):
            if process.name() == "haproxy":
                process.terminate()


def _wait(stop: threading.Event) -> None:
    try:
        while not stop.wait(1.0):
            pass
    except KeyboardInterrupt:
        return


def ask_example(base: str, name: str, key: str = "", certificate: str = "") -> str:
    """Ask a model its example over HTTP; gives the answer as text. With TLS, the server must show `certificate`.

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
        context.check_hostname = False  # it is asked at its address
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, question, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as response:  # noqa: S310
            return response.read().decode()  # type: ignore[no-any-return]
    except urllib.error.HTTPError as error:
        told = error.read().decode(errors="replace")
        if error.code in (401, 403):
            raise AuthenticationError(
                f"{url} wants an API key: give --key, or RAYMLOPS_KEY, one that may infer ({told})"
            ) from None
        raise RaymlopsError(f"{url} answered {error.code}: {told}") from None
