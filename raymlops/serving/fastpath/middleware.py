"""A middleware that passes requests of this replica to its data plane before Serve wraps them in tasks and
bookkeeping.

Serve's own path costs a request two tasks, an access log entry and metrics that the plane keeps itself. It stays in
use if Serve must count requests in flight, which is how it scales replicas. Imports no models.
"""

import dataclasses
from typing import Any

import ray
from starlette.middleware import Middleware

from raymlops.serving.fastpath import uvicorn_internals
from raymlops.serving.fastpath.certificates import refresh_certificates
from raymlops.serving.fastpath.coalesced_write import join_writes
from raymlops.serving.proxy import key_guard, listeners
from raymlops.serving.proxy.grpc_options import limit_grpc_servers, server_options
from raymlops.serving.transport.connection_limits import ConnectionLimits
from raymlops.serving.transport.http import Receive, Send
from raymlops.serving.transport.traceback_text import repair_print


@dataclasses.dataclass
class OwnApplication:
    """What this process serves; set by the replica when it is ready."""

    app: Any = None
    prefix: str = ""
    limits: ConnectionLimits = dataclasses.field(default_factory=ConnectionLimits)

    def own_path(self, path: str) -> str | None:
        """The path within the application; None for one of Serve's own paths."""
        if path == "*":  # of no application: the data plane lists its paths
            return path
        own = path[len(self.prefix) :]
        if path.startswith("/-/") or not path.startswith(self.prefix) or (own and own[0] != "/"):
            return None
        return own or "/"


OWN = OwnApplication()
"""One per process, empty in proxies and in replicas that use Serve's path."""

_NO_WATCH = (b"x-request-disconnect-disabled", b"?1")
"""Serve starts no task to watch for a client that disconnects; the data plane notices that by itself."""


class FastMiddleware:
    """ASGI middleware in front of Serve's."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        app = OWN.app
        if scope["type"] != "http" or app is None or OWN.own_path(scope["path"]) is None:
            await self._app(scope, receive, send)
            return
        scope["root_path"] = scope.get("root_path", "") + OWN.prefix
        await app(scope, receive, join_writes(scope["method"], send))


class QuietMiddleware:
    """ASGI middleware that keeps Serve's path without the task that watches the client."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and OWN.app is None:
            scope["headers"] = [*scope["headers"], _NO_WATCH]
            send = join_writes(scope["method"], send)
        await self._app(scope, receive, send)


def make_middlewares() -> list[Middleware]:
    """Serve calls this in every process that answers HTTP, before it answers gRPC; the last one is the outermost."""
    guards = make_guards()
    uvicorn_internals.use_protocol("raymlops.serving.fastpath.uvicorn_protocol:UvicornProtocol")
    return [Middleware(QuietMiddleware), Middleware(FastMiddleware), *guards]


def make_guards() -> list[Middleware]:
    """The same for Serve's default settings: ports are restricted, and a proxy checks keys; a replica checks them
    itself."""
    repair_print()
    limit_grpc_servers(server_options(OWN.limits))
    listeners.close_ports()
    refresh_certificates()
    return [Middleware(key_guard.KeyGuard)] if _is_proxy() else []


def _is_proxy() -> bool:
    if not ray.is_initialized():  # a call would start or join a cluster
        return False
    return str(ray.get_runtime_context().get_actor_name() or "").startswith("SERVE_PROXY_ACTOR")
