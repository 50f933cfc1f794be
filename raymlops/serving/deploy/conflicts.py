"""Conflicts of an application with others before anything is deployed: routes, names and ports that are taken.
Changes nothing."""

import contextlib
import errno
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from raymlops.errors import ResourceError, SpecError
from raymlops.specs.serving import ServingSpec


def require_own_route(config: Mapping[str, Any], running: Iterable[Mapping[str, Any]]) -> None:
    """Raises SpecError if another application answers on this route, or this one on another route."""
    name, route = config["name"], config["route_prefix"]
    for other in running:
        theirs = other.get("route_prefix")
        if other["name"] != name and theirs == route:
            raise SpecError(
                f"Route {route!r} belongs to application {other['name']!r}, which runs on this cluster; give "
                f"{name!r} its own route, as in: route=/{name}"
            )
        if other["name"] == name and theirs != route:
            raise SpecError(
                f"An application {name!r} runs on this cluster already, at route {theirs!r} and not {route!r}, "
                f"and would be replaced; give this one another name, as in: name={name}-2, or first remove the "
                "other with: raymlops deploy FILE --remove"
            )


def describe_shared_models(config: Mapping[str, Any], running: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A hint for gRPC callers if another application has a model of the same name; models of folders are not known
    here."""
    if not config["args"].get("grpc_port"):
        return
    for other in running:
        shared = sorted(_list_models(config) & _list_models(other)) if other["name"] != config["name"] else []
        if shared:
            names = ", ".join(shared[:5]) + (f" and {len(shared) - 5} more" if len(shared) > 5 else "")
            yield (
                f"{names}: application {other['name']!r} has this model too; gRPC callers must then say which "
                f"one, in the metadata 'application: {config['name']}', or give the model another name"
            )


def _list_models(config: Mapping[str, Any]) -> set[str]:
    args = config.get("args") or {}
    return {*(args.get("models") or ()), *(args.get("graphs") or ())}


def require_ports(spec: ServingSpec, port: int, grpc_port: int) -> None:
    """`port` and `grpc_port` are those of Serve on this cluster, which all its applications share; 0 is none.

    Raises SpecError if the spec names others.
    """
    remedy = "leave it out, or stop Serve on this cluster with `serve shutdown`, and deploy again"
    if "port" in spec.model_fields_set and spec.port != port:
        raise SpecError(
            f"port is {spec.port}, but all applications of this cluster use port {port}; set port={port}, "
            f"{remedy}"
        )
    if spec.grpc_port and spec.grpc_port != grpc_port:
        what = f"gRPC on port {grpc_port}" if grpc_port else "no gRPC"
        raise SpecError(
            f"grpc_port is {spec.grpc_port}, but this cluster was started with {what} for all its applications; "
            + (f"set grpc_port={grpc_port}, {remedy}" if grpc_port else remedy)
        )


def require_free_ports(spec: ServingSpec) -> None:
    """Before Serve is started on this machine. Raises ResourceError if another program listens on a port."""
    for key, port in (("port", spec.port), ("grpc_port", spec.grpc_port)):
        if port and not is_free(spec.host, port):
            raise ResourceError(
                f"Port {port} of {spec.host} is in use by another program; stop it, or choose another, as in: "
                f"{key}={find_free(port + 1)}. To serve beside a running `raymlops serve`, use the command that "
                "it printed: RAY_ADDRESS=... raymlops deploy FILE"
            )


def is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        # As servers do: closed connections do not count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except PermissionError:
            raise ResourceError(
                f"Port {port} is for the system's administrator; use one from 1024 on"
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ResourceError(f"Nothing can listen on host {host!r}: {error.strerror}") from None
    return True


def find_free(port: int) -> int:
    """The first free port from this one on."""
    with contextlib.suppress(StopIteration):
        return next(one for one in range(port, port + 100) if one < 65536 and is_free("127.0.0.1", one))
    return port


_INNER_PORTS = {
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    # Serve's own proxy shares its ports with that of another cluster, which would answer instead.
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500,
}
"""Default ports of HAProxy, and of Serve's proxy behind it, beside the user's ports."""


def choose_inner_ports() -> dict[str, str]:
    """Variables for a second Serve on this machine; empty if the default ports are free."""
    taken = {name: port for name, port in _INNER_PORTS.items() if not is_free("127.0.0.1", port)}
    return {name: str(find_free(port + 1)) for name, port in taken.items()}
