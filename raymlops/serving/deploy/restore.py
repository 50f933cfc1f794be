"""Brings back what was deployed on a cluster whose head was lost, with the versions that were pinned then. Serve's
controller kept that in the head's memory; the storage path has it too."""

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
    """Apply the newest config of each application; gives their names.

    Waits `patience_s` for the cluster to answer, and `timeout_s` for each application to be healthy; with 0 the
    controller is left to start them as nodes come. Applications that run as they were deployed are not touched.
    Raises ResourceError, and UntrustedError, once the others run, for those that no trusted key signed and that are not
    `trusted` by the caller; the code that such name is told.
    """
    refused: list[str] = []
    configs = history.read_deployed(settings, trusted=trusted, refused=refused)
    for config in configs if trusted else ():
        report(
            f"{config['name']} is trusted, and runs: {', '.join(history.list_code(config)) or 'models alone'}"
        )
    if not configs and refused:
        raise UntrustedError("; ".join(refused))
    if not configs:
        return []
    _connect(settings, patience_s)
    specs = [ServingSpec.model_validate(config["args"]) for config in configs]
    # A cluster has one HTTP port and one gRPC port, whichever application came first.
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
    """Stop an application, whose requests in flight are answered, and remember that it shall not come back. Raises
    NotFoundError."""
    client.connect(settings, tell=report)
    known = serve.status().applications if client.is_serving() else {}
    if application not in known:
        raise NotFoundError(unknown_name("application", application, known))
    client.take_away(application, drain_s + _END_S, report)
    history.History(settings, application).add(None)


_END_S = 40.0
"""Longest time that replicas take to end beside the requests that they answer."""


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
