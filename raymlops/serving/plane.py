"""The data plane as one ASGI application: admits, reads, routes, answers, counts. No framework stands on the
hot path.

Runs under any ASGI server; Ray Serve is one of them.
"""

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from raymlops.errors import (
    AuthenticationError,
    NotFoundError,
    OverloadedError,
    RaymlopsError,
    TooManyRequestsError,
    unknown_name,
)
from raymlops.serving import http, protocol, routes, tracing
from raymlops.serving.codec import dump_json
from raymlops.serving.http import JSON, Headers, Request, Response
from raymlops.serving.keys import KeyRing
from raymlops.serving.rates import RateLimit
from raymlops.serving.routes import Hosts

ACCESS = logging.getLogger("raymlops.access")
LOG = logging.getLogger("raymlops.serving")


def log_to_stderr() -> None:
    """Access lines and failures go where Ray collects a replica's output."""
    for logger in (ACCESS, LOG):
        if not logger.handlers:
            # Serve puts a logger of its own in the place of sys.stderr, which drops lines below its level.
            logger.addHandler(logging.StreamHandler(sys.__stderr__))
            logger.setLevel(logging.INFO)
            logger.propagate = False


class DataPlane:
    """Everything between a socket and the endpoints. `hosts`, `keys` and `rate` may be changed while it
    serves."""

    def __init__(
        self,
        hosts: Hosts,
        keys: KeyRing | None = None,
        rate: RateLimit | None = None,
        *,
        body_limit: int = 64 * 2**20,
        log_share: float = 0.01,
    ) -> None:
        self.hosts = hosts
        self.keys = keys or KeyRing()
        self.rate = rate
        self._body_limit = body_limit
        self._log_share = log_share
        self._known: dict[tuple[str, str], tuple[str, routes.Handler, tuple[str, ...]]] = {}

    async def __call__(self, scope: Any, receive: http.Receive, send: http.Send) -> None:
        if scope["type"] == "lifespan":
            await _run_lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        path = scope["path"]
        root = scope.get("root_path")
        if root and path.startswith(root):
            path = path[len(root) :] or "/"
        request = self.begin(scope["method"], path, dict(scope["headers"]))
        try:
            response = await self.respond(request, receive)
        except http.DisconnectedError:
            return
        extra: Headers = ((b"x-request-id", request.id.encode("latin-1")),)
        if response.status == 413:
            extra += ((b"connection", b"close"),)  # the rest of the body is not read
        if request.method == "HEAD":
            response.body = b""
        await http.send_response(send, response, extra)

    def begin(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Request:
        """A request whose head was read; `path` is that of the application, `headers` have lower case names."""
        given = headers.get(b"x-request-id")
        name = given[:128].decode("latin-1") if given else f"{random.getrandbits(64):016x}"
        request = Request(method, path, headers, name)
        request.logged = random.random() < self._log_share  # noqa: S311
        return request

    async def respond(self, request: Request, receive: http.Receive | None = None) -> Response:
        """The response, whatever happens; without `receive` the body is in the request. Raises DisconnectedError."""
        tracing.follow(request.trace)
        response = await self._answer(request, receive)
        if response.status >= 500 or request.logged:
            self._log(request, response, (time.perf_counter_ns() - request.started) / 1e9)
        return response

    async def _answer(self, request: Request, receive: http.Receive | None) -> Response:
        try:
            role, handler, request.parts = self._find(request.method, request.path)
            if role:
                request.caller = self.keys.admit(request.token, role, self._model_of(request, handler))
                if self.rate is not None and role in routes.LIMITED:
                    await self.rate.admit(request.key)
            if role not in routes.LIMITED:  # probes and the like are answered however full it is
                return await self._handle(handler, request, receive)
            self.hosts.enter(request.parts)
            try:
                return await self._handle(handler, request, receive)
            finally:
                self.hosts.pending -= 1
        except http.DisconnectedError:
            raise
        except Exception as error:
            return self._answer_failure(error, request)

    async def _handle(
        self, handler: routes.Handler, request: Request, receive: http.Receive | None
    ) -> Response:
        if request.method == "POST":
            if receive is not None:
                request.body = await http.read_body(receive, request.headers, self._body_limit)
            request.body = http.unpack_body(request.body, request.headers, self._body_limit)
        return await handler(self.hosts, request)

    def _model_of(self, request: Request, handler: routes.Handler) -> str | None:
        """The model that a request is about, which its key must be for; None where the route is about several."""
        if request.parts:
            return request.parts[0]
        models = self.hosts.models
        return next(iter(models)) if handler is routes.invoke and len(models) == 1 else None

    def _find(self, method: str, path: str) -> tuple[str, routes.Handler, tuple[str, ...]]:
        known = self._known.get((method, path))
        if known is not None:
            return known
        found = routes.find_route(method, path)
        if isinstance(found, set):
            if found:
                raise _MethodError(f"{path} takes {', '.join(sorted(found))}, not {method}")
            raise NotFoundError(unknown_name("path", path, _PATHS))
        if found[2][:1] and found[2][0] in self.hosts.models and len(self._known) < 10_000:
            self._known[method, path] = found
        return found

    def _answer_failure(self, error: Exception, request: Request) -> Response:
        status = error.status if isinstance(error, RaymlopsError) else 500
        if status >= 500 and not isinstance(error, OverloadedError):
            LOG.error("request %s failed: %s", request.id, error, exc_info=error)
        self.hosts.count_failure(request.model, request.started)
        extra: Headers = ()
        if isinstance(error, OverloadedError | TooManyRequestsError):
            extra = ((b"retry-after", str(max(1, round(error.retry_after))).encode()),)
        elif isinstance(error, AuthenticationError):
            extra = ((b"www-authenticate", b"Bearer"),)
        return Response(status, dump_json(protocol.describe_error(error, request.id)), (JSON, *extra))

    def _log(self, request: Request, response: Response, seconds: float) -> None:
        entry = {
            "time": round(time.time(), 3),
            "request_id": request.id,
            "method": request.method,
            "path": quote(request.path),
            "status": response.status,
            "ms": round(seconds * 1000, 3),
            "model": request.model,
            "rows": request.rows,
            "bytes_in": len(request.body),
            "bytes_out": len(response.body),
            "key": request.key,
            "trace": request.trace().parent,
        }
        ACCESS.info(json.dumps(entry))


class _MethodError(NotFoundError):
    status = 405


_PATHS = [
    "/v2",
    "/v2/models",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/repository/index",
    "/v2/models/NAME/infer",
    "/invocations",
    "/ping",
    "/health",
    "/version",
    "/metrics",
    "/openapi.json",
    "/docs",
]


async def _run_lifespan(receive: http.Receive, send: http.Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
        await asyncio.sleep(0)
