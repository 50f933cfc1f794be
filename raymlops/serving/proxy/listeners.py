"""Addresses and certificates of the sockets of Ray Serve's processes: Serve binds some ports on every interface.

Where Serve's functions for that are not found, the log says which port stays as Serve has it.
"""

import logging
import pathlib
import socket
from typing import Any

import ray

from raymlops.serving import serve_internals

LOG = logging.getLogger("raymlops.serving")
LOOPBACK = "127.0.0.1"
_POLL_S = 1.0


def close_ports() -> None:
    """In a proxy or a replica, before Serve binds ports there: gRPC listens where HTTP does, not on every interface.

    On a one-machine cluster, replicas and the proxy behind HAProxy listen on loopback, whatever the host.
    """
    if serve_internals.replace_grpc_bind(_add_grpc_address):
        _close_http_behind_haproxy()


def close_replica_ports() -> None:
    """In a replica, while it is constructed: ports that only other replicas and HAProxy call."""

    def make(bind: Any) -> Any:
        def bind_to_node(server: Any, address: str) -> Any:
            # Callers use the address of the node, and show Ray's token.
            return bind(server, join_address(ray.util.get_node_ip_address(), address.rpartition(":")[2]))

        return bind_to_node

    serve_internals.replace_internal_bind(make)
    _close_http_behind_haproxy()


def _close_http_behind_haproxy() -> None:
    """HTTP that only this machine's HAProxy calls is on loopback: HAProxy may be what adds TLS for outside callers."""
    if not (is_local() and serve_internals.is_behind_haproxy()):
        return
    # In the proxy's actor its functions are copies that do not see this module's names; the function that creates the
    # socket is shared by both.
    if not serve_internals.replace_http_sockets(_LOOPBACK_SOCKETS):
        LOG.error(
            "Ray %s is not a known version: the port for HTTP of replicas is where Serve binds it",
            ray.__version__,
        )


class _LoopbackSocket(socket.socket):
    def bind(self, address: Any) -> None:
        # the port that HAProxy calls
        host = f"::ffff:{LOOPBACK}" if self.family == socket.AF_INET6 else LOOPBACK
        super().bind((host, *address[1:]))


class _Sockets:
    """A stand-in for the module `socket`, whose sockets bind to loopback only."""

    socket = _LoopbackSocket

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)


_LOOPBACK_SOCKETS = _Sockets()


def is_local() -> bool:
    """Whether the cluster has one machine only, see clusters/loopback.py."""
    return str(ray.util.get_node_ip_address()).startswith("127.")


def join_address(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _add_grpc_address(server: Any, address: str) -> None:
    """Replaces Serve's function of this name, which returns `[::]:PORT`."""
    import grpc

    from raymlops.serving.proxy import key_guard

    behind_haproxy = serve_internals.is_behind_haproxy()
    options = serve_internals.read_http_options()
    behind = is_local() and behind_haproxy
    address = join_address(LOOPBACK if behind else options.host or LOOPBACK, address.rpartition(":")[2])
    if not key_guard.guard_grpc(server):
        LOG.error(
            "Ray %s is not a known version: gRPC parses messages before it checks keys",
            ray.__version__,
        )
    if behind_haproxy or not options.ssl_certfile:
        server.add_insecure_port(address)
        return
    pair = options.ssl_certfile, options.ssl_keyfile, options.ssl_ca_certs

    def fetch() -> Any:
        """gRPC asks at each handshake; if the files cannot be read, the old certificates stay in use."""
        try:
            certificate, key = (pathlib.Path(path).read_bytes() for path in pair[:2])
            client_ca = pathlib.Path(pair[2]).read_bytes() if pair[2] else None
        except OSError as error:
            LOG.error("the TLS files were not read; the old ones stay in use: %s", error)
            return None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    credentials = grpc.dynamic_ssl_server_credentials(
        fetch(), fetch, require_client_authentication=bool(pair[2])
    )
    server.add_secure_port(address, credentials)


def read_host() -> str | None:
    """Where Serve's HTTP listens; None if no Serve runs, as when an application is only built."""
    try:
        return serve_internals.read_http_options().host or ""
    except (ValueError, ray.exceptions.RayError):  # no controller, no cluster
        return None
