"""Addresses and certificates of the sockets of Ray Serve's processes: Serve binds some ports on every interface.

The only module that replaces private functions of Serve for that. If a version of Ray lacks one, the log says which
port stays as Serve binds it.
"""

import logging
import pathlib
import socket
import ssl
import sys
import threading
import time
from typing import Any

import ray

LOG = logging.getLogger("raymlops.serving")
LOOPBACK = "127.0.0.1"
_POLL_S = 1.0


def close_ports() -> None:
    """In a proxy or a replica, before Serve binds ports there: gRPC listens where HTTP does, not on every interface.

    On a one-machine cluster, replicas and the proxy behind HAProxy listen on loopback, whatever the host.
    """
    from ray.serve._private import default_impl

    if not hasattr(default_impl, "add_grpc_address"):
        _warn("gRPC of replicas")
        return
    default_impl.add_grpc_address = _add_grpc_address
    _close_http_behind_haproxy()


def close_replica_ports() -> None:
    """In a replica, while it is constructed: ports that only other replicas and HAProxy call."""
    replica = sys.modules.get("ray.serve._private.replica")
    bind = getattr(replica, "add_port_to_grpc_server", None)
    if bind is None:
        _warn("calls between replicas")
        return
    if not hasattr(bind, "replaced"):

        def bind_to_node(server: Any, address: str) -> Any:
            # Callers use the address of the node, and show Ray's token.
            return bind(server, join_address(ray.util.get_node_ip_address(), address.rpartition(":")[2]))

        bind_to_node.replaced = bind  # type: ignore[attr-defined]
        replica.add_port_to_grpc_server = bind_to_node  # type: ignore[union-attr]
    _close_http_behind_haproxy()


def _close_http_behind_haproxy() -> None:
    """HTTP that only this machine's HAProxy calls is on loopback: HAProxy may be what adds TLS for outside callers."""
    from ray.serve._private import constants, http_util

    if not (is_local() and constants.RAY_SERVE_ENABLE_HA_PROXY):
        return
    # In the proxy's actor its functions are copies that do not see this module's names; the function that creates the
    # socket is shared by both.
    if getattr(http_util, "socket", None) not in (socket, _LOOPBACK_SOCKETS) or not hasattr(
        http_util, "start_asgi_http_server"
    ):
        _warn("HTTP of replicas")
        return
    http_util.socket = _LOOPBACK_SOCKETS


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


def _warn(port: str) -> None:
    LOG.error("Ray %s is not a known version: the port for %s is where Serve binds it", ray.__version__, port)


def is_local() -> bool:
    """Whether the cluster has one machine only, see clusters/loopback.py."""
    return str(ray.util.get_node_ip_address()).startswith("127.")


def join_address(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _add_grpc_address(server: Any, address: str) -> None:
    """Replaces Serve's function of this name, which returns `[::]:PORT`."""
    import grpc
    from ray.serve._private import constants

    from raymlops.serving.proxy import key_guard

    options = _read_http_options()
    behind = is_local() and constants.RAY_SERVE_ENABLE_HA_PROXY
    address = join_address(LOOPBACK if behind else options.host or LOOPBACK, address.rpartition(":")[2])
    if not key_guard.guard_grpc(server):
        LOG.error(
            "Ray %s is not a known version: gRPC parses messages before it checks keys",
            ray.__version__,
        )
    if constants.RAY_SERVE_ENABLE_HA_PROXY or not options.ssl_certfile:
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
        return _read_http_options().host or ""
    except (ValueError, ray.exceptions.RayError):  # no controller, no cluster
        return None


def _read_http_options() -> Any:
    """Serve's start options; blocks the caller, as Serve's own replicas do at this point."""
    return ray.get(find_controller().get_http_config.remote())


def find_controller() -> Any:
    """Serve's controller. Raises ValueError if there is no cluster; Ray would start or join one to find it."""
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    if not ray.is_initialized():
        raise ValueError("This process is in no cluster")
    return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)


def refresh_certificates() -> None:
    """uvicorn reads certificates only once: make it require those of clients if a CA was given, and read changed
    files for new connections."""
    import uvicorn.config

    create = uvicorn.config.create_ssl_context
    if hasattr(create, "replaced"):
        return

    def create_and_watch(certfile: Any, keyfile: Any, *arguments: Any, **options: Any) -> Any:
        context = create(certfile, keyfile, *arguments, **options)
        ca = options.get("ca_certs") or (arguments[3] if len(arguments) > 3 else None)
        if ca:
            context.verify_mode = ssl.CERT_REQUIRED  # Serve has no option for it
        if certfile and keyfile:
            watched = (context, str(certfile), str(keyfile))
            threading.Thread(target=_watch_certificates, args=watched, daemon=True).start()
        return context

    create_and_watch.replaced = create  # type: ignore[attr-defined]
    uvicorn.config.create_ssl_context = create_and_watch


def _watch_certificates(context: Any, certfile: str, keyfile: str) -> None:
    paths = [pathlib.Path(certfile), pathlib.Path(keyfile)]
    known = None
    while True:
        try:
            stamps = [(path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_ino) for path in paths]
            if known is not None and stamps != known:
                context.load_cert_chain(certfile, keyfile)
                LOG.info("TLS: certificates of %s are in use", certfile)
            known = stamps
        except (
            Exception
        ) as error:  # half of a pair was replaced, or a file cannot be read; in any case, look again
            LOG.error("TLS: the changed certificates are not in use yet: %s", error)
        time.sleep(_POLL_S)
