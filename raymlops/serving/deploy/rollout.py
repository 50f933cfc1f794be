"""Replaces an application's running config by another one, or restores it, and records each that became healthy."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raymlops.errors import UntrustedError
from raymlops.serving.deploy import client, history, traffic
from raymlops.serving.deploy.history import History


def roll_out(
    config: dict[str, Any],
    past: History,
    timeout_s: float,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Deploy a new config with the weights that were set while the previous one served; returns it.

    Raises ResourceError if it does not become healthy; the previous one is then restored.
    """
    before = find_running(config["name"])
    config, told = traffic.keep_weights(config, before)
    for line in told:
        report(line)
    if before is not None:
        remember_running(past, before)
    client.replace(config, before, timeout_s, report)
    past.add(config)
    return config


def roll_back(
    past: History, timeout_s: float, *, trust: bool = False, report: Callable[[str], None] = print
) -> dict[str, Any]:
    """Deploy the config before the present one; returns it. Raises NotFoundError if there is none, and the same as
    `roll_out`."""
    before = find_running(past.application)
    if before is not None:
        remember_running(past, before)
    config = past.previous()
    if trust:
        report(f"Trusted, and runs: {', '.join(history.list_code(config)) or 'models only'}")
    if before is None:
        try:
            before = past.newest()
        except UntrustedError as error:
            report(f"If this fails, nothing is restored: {error}")
    client.replace(config, before, timeout_s, report)
    past.drop_newest()
    return config


def find_running(name: str) -> dict[str, Any] | None:
    """The running config of an application on the cluster; None for one that does not start."""
    if name not in client.list_running():
        return None
    return next((found for found in client.running_configs() if found["name"] == name), None)


def remember_running(past: History, running: Mapping[str, Any]) -> None:
    """Adds to the history what `raymlops serve` or Ray's own command deployed."""
    if running.get("import_path") != history.BUILDER:
        return
    try:
        newest = past.newest()
    except UntrustedError:
        return  # whoever rolls back sees the message
    if newest is None or _substance(newest) != _substance(running):
        past.add(dict(running))


def _substance(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """The parts in which two configs are compared; Serve fills in the rest."""
    return config.get("route_prefix"), config.get("args"), config.get("deployments") or []


def describe(config: Mapping[str, Any]) -> Iterator[str]:
    """One short text for each thing that an application serves."""
    args = config["args"]
    for name, model in args.get("models", {}).items():
        yield f"{name}: {model['source']}, version {model['version']},"
    for name in args.get("graphs", {}):
        yield f"{name}, a graph,"
    if args.get("many"):
        yield f"The folder {args['many']['folder']}"
