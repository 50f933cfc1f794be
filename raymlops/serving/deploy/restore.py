"""Restores the applications of a cluster whose head was lost, at the versions that were pinned then. Serve's
controller kept them in the head's memory; the storage path has them too."""

import time
from collections.abc import Callable
from typing import Any

import ray
from ray import serve

from raymlops.errors import NotFoundError, ResourceError, UntrustedError, unknown_name
from raymlops.serving.deploy import client, history
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec


def restore(
    settings: Settings,
    *,
    patience_s: float = 0.0,
    timeout_s: float = 0.0,
    trusted: bool = False,
    report: Callable[[str], None] = print,
) -> list[str]:
    """Apply the newest config of each application; returns their names.

    Waits `patience_s` for the cluster to answer, and `timeout_s` for each application to be healthy; with 0 it leaves
    their start to the controller, as nodes join. Applications that already run as deployed are not changed. Raises
    ResourceError; and UntrustedError, once the others run, for those that no trusted key signed and that are not
    `trusted` by the caller; code that these name is printed.
    """
    refused: list[str] = []
    configs = history.read_deployed(settings, trusted=trusted, refused=refused)
    for config in configs if trusted else ():
        report(
            f"{config['name']} is trusted, and runs: {', '.join(history.list_code(config)) or 'models only'}"
        )
    if not configs and refused:
        raise UntrustedError("; ".join(refused))
    if not configs:
        return []
    _connect(settings, patience_s)
    specs = [ServingSpec.model_validate(config["args"]) for config in configs]
    # A cluster has one HTTP port and one gRPC port, set by the first application.
    client.start_serve(next((spec for spec in specs if spec.grpc_port), specs[0]))
    client.apply(configs)
    for config in configs:
        report(f"{config['name']}: {', '.join(_describe(config['args'])) or 'as deployed'}")
        if timeout_s:
            client.wait_healthy(config["name"], timeout_s, report)
    if refused:
        raise UntrustedError("; ".join(refused))
    return [config["name"] for config in configs]


def remove(
    settings: Settings, application: str, drain_s: float = 20.0, report: Callable[[str], Any] = print
) -> None:
    """Stop an application, answer its requests in flight, and record that it must not be restored. Raises
    NotFoundError."""
    client.connect(settings, tell=report)
    known = serve.status().applications if client.is_serving() else {}
    if application not in known:
        raise NotFoundError(unknown_name("application", application, known))
    client.remove_application(application, drain_s + _END_S, report)
    history.History(settings, application).add(None)


_END_S = 40.0
"""Longest time that replicas take to end, beyond the requests that they answer, in seconds."""


def _connect(settings: Settings, patience_s: float) -> None:
    """Join a cluster that may be starting: its nodes join some seconds after its port answers."""
    ends = time.monotonic() + patience_s
    while True:
        try:
            client.connect(settings)
        except ResourceError:
            if time.monotonic() > ends:
                raise
        else:
            return
        ray.shutdown()
        time.sleep(1)


def _describe(args: dict[str, Any]) -> list[str]:
    return [f"{name} version {model['version']}" for name, model in args["models"].items()] + list(
        args["graphs"]
    )
