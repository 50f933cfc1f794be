"""The data plane as one ASGI application: admits, reads, routes, answers, counts. No web framework on the hot path.

Runs under any ASGI server; Ray Serve is one of them.
"""

import asyncio
import hmac
import logging
import random
import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from raymlops.errors import (
    AuthenticationError,
    NotFoundError,
    OverloadedError,
    RaymlopsError,
    TooLargeError,
    TooManyRequestsError,
    shorten,
    unknown_name,
)
from raymlops.serving.endpoints.access_log import ACCESS
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.haproxy import model_routing
from raymlops.serving.protocol import open_inference
from raymlops.serving.protocol.headers import JSON, Headers
from raymlops.serving.protocol.json_text import dump_json
from raymlops.serving.transport import http, inference, public_address, routes, trace_context
from raymlops.serving.transport.api_keys import KeyRing
from raymlops.serving.transport.client_addresses import ClientAddresses
from raymlops.serving.transport.cors import CorsPolicy
from raymlops.serving.transport.http import Request, Response
from raymlops.serving.transport.rate_limit import RateLimit
from raymlops.serving.transport.traceback_text import TracebackFormatter, repair_print

LOG = logging.getLogger("raymlops.serving")


def log_to_stderr() -> None:
    """Sends access lines and failures to where Ray collects a replica's output."""
    repair_print()
    for logger in (ACCESS, LOG):
        if not logger.handlers:
            # Serve replaces sys.stderr by a logger of its own, which drops lines below its level.
            handler = logging.StreamHandler(sys.__stderr__)
            handler.setFormatter(TracebackFormatter())
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False


class DataPlane:
    """Everything between a socket and the endpoints. `hosts`, `keys` and `rate` may be changed while it serves."""

    def __init__(
        self,
        hosts: Hosts,
        keys: KeyRing | None = None,
        rate: RateLimit | None = None,
        *,
        body_limit: int = 64 * 2**20,
        large_bodies_limit: int = 512 * 2**20,
        log_share: float = 0.01,
        addresses: ClientAddresses | None = None,
        cors: CorsPolicy | None = None,
    ) -> None:
        self.hosts = hosts
        self.keys = keys or KeyRing()
        self.rate = rate
        self.cors = cors
        self.body_limit = body_limit
        self.large_bodies = http.ByteBudget(large_bodies_limit)
        self.log_share = log_share
        self.addresses = addresses or ClientAddresses()
        self.secret = ""
        """The secret that proxies of this cluster show; if empty, no proxy is believed."""
        self.watchers = 0
        """Clients that watch the health of this replica over gRPC."""
        self.is_draining: Callable[[], bool] = lambda: False
        """Whether this replica is about to end, so that watchers must be released."""
        self._known: dict[tuple[str, str], tuple[str, routes.Handler, tuple[str, ...]]] = {}

    def count_requests(self) -> int:
        """Requests in progress: complete ones, and at least one more while large bodies arrive."""
        return self.hosts.pending + (self.large_bodies.held > 0)

    async def __call__(self, scope: Any, receive: http.Receive, send: http.Send) -> None:
        if scope["type"] == "lifespan":
            await _run_lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        path, root = scope["path"], scope.get("root_path") or ""
        if root and (path == root or path.startswith(f"{root}/")):
            path = path[len(root) :] or "/"
        request = self.begin(scope["method"], path, dict(scope["headers"]))
        request.prefix, request.scheme = root, scope.get("scheme", "http")
        # uvicorn puts into `client` what a client on loopback claims about itself.
        request.peer = scope.get("raymlops.peer") or (scope.get("client") or ("",))[0]
        try:
            response = await self.respond(request, receive)
        except http.DisconnectedError:
            return
        extra: Headers = ((b"x-request-id", request.id.encode("latin-1")),)
        if response.status == _TOO_LARGE or (response.status >= 400 and b"expect" in request.headers):
            # The client decides whether its body still arrives: the next bytes could be body or a new request.
            extra += ((b"connection", b"close"),)
        await http.send_response(send, response, extra, head_only=request.method == "HEAD")

    def begin(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Request:
        """A request whose head was read; `path` is that of the application, `headers` have lower-case names."""
        given = headers.get(b"x-request-id")
        name = given[:128].decode("latin-1") if given else f"{random.getrandbits(64):016x}"
        request = Request(method, path, headers, name)
        request.logged = random.random() < self.log_share  # noqa: S311
        return request

    def count_refused(self, method: str, path: str, status: int) -> None:
        """A request whose body was not read, since its head declares too large a body."""
        found = routes.find_route(method, path)
        if found is not None and found[0] == "infer":
            request = self.begin(method, path, {})
            request.infers, request.arrived = True, request.started
            self.hosts.count(request, next(iter(found[2]), ""), status, request.started, 0)
            self.hosts.observers.tell(request, status, request.started, 0, 0)

    async def respond(self, request: Request, receive: http.Receive | None = None) -> Response:
        """The response, whatever happens; without `receive` the body is in the request. Raises DisconnectedError."""
        trace_context.follow(request.trace)
        if receive is None:
            request.arrived = time.perf_counter_ns()
        response = await self._answer(request, receive)
        ended = time.perf_counter_ns()
        counted = request.statistics
        if counted is not None and response.status == 200:
            counted.record_success(request, ended, len(request.body), len(response.body))
        elif request.infers:
            request.arrived = request.arrived or request.started  # refused before it was complete
            name = request.model or (request.parts[0] if request.parts else "")
            self.hosts.count(request, name, response.status, ended, len(request.body))
        if self.cors is not None:
            response.headers += self.cors.list_headers(request.headers)
        status, observers = response.status, self.hosts.observers
        if request.logged or status >= 500 or observers.inferences:
            observers.tell(request, status, ended, len(request.body), len(response.body))
        return response

    async def _answer(self, request: Request, receive: http.Receive | None) -> Response:
        held: http.Reservation | None = None
        try:
            role, handler = self._admit_key(request)
            if self.rate is not None and role in routes.LIMITED:
                await self.rate.admit(request.key or self.addresses.find(request.peer, request.headers))
            if request.method == "POST" and (receive is not None or http.is_packed(request.headers)):
                held = self.large_bodies.hold()
                await self._read(request, receive, held)
            if role not in routes.LIMITED:  # probes and the like are answered even when the queue is full
                return await handler(self.hosts, request)
            self.hosts.enter()  # a request takes a place once it is complete
            try:
                return await handler(self.hosts, request)
            finally:
                self.hosts.pending -= 1
        except http.DisconnectedError:
            raise
        except Exception as error:
            return self._answer_failure(error, request)
        finally:
            if held is not None:
                held.release()

    def _admit_key(self, request: Request) -> tuple[str, routes.Handler]:
        """The role and the handler of the path, for the key of the request; paths are cached only for admitted
        callers. Raises NotFoundError, AuthenticationError, ForbiddenError."""
        known = self._known.get((request.method, request.path))
        role, handler, request.parts = known or self._find(request)
        request.infers = role == "infer"
        if role and (role == "admin" or not self.keys.is_open):
            request.caller = self.keys.admit(request.token, role, self._model_of(request, handler))
        if known is None:
            self._remember(request.method, request.path, (role, handler, request.parts))
        return role, handler

    async def _read(self, request: Request, receive: http.Receive | None, held: http.Reservation) -> None:
        """The decompressed body of a request. Raises TooLargeError, InputError, OverloadedError, DisconnectedError."""
        headers, limit = request.headers, self.body_limit
        if receive is not None:
            request.body = await http.read_body(receive, headers, limit, held)
            request.arrived = time.perf_counter_ns()
        if http.is_packed(headers):
            what = request.body, headers, limit
            request.body = (
                http.unpack_body(*what)
                if len(request.body) <= 1024  # one byte of it may become a thousand
                else await inference.run_large(self.hosts, http.unpack_body, *what)
            )
            held.take(len(request.body))

    def _model_of(self, request: Request, handler: routes.Handler) -> str | None:
        """The model of a request, which its key must allow; None if the route is about several models."""
        if request.parts:
            return request.parts[0]
        models = self.hosts.models
        return next(iter(models)) if handler is inference.invoke and len(models) == 1 else None

    def _find(self, request: Request) -> tuple[str, routes.Handler, tuple[str, ...]]:
        method, path = request.method, request.path
        if method == "OPTIONS" and (path == "*" or routes.list_methods(path)):
            return "", self._answer_options, ()
        if path == model_routing.MODELS_PATH and self._is_proxy(request):
            return "", _list_models, ()
        found = routes.find_route(method, path)
        if found is None:
            prefix, methods = public_address.find_prefix(request), routes.list_methods(path)
            if methods:
                text = f"{shorten(prefix + path)} takes {', '.join(methods)}, not {shorten(method, 40)}"
                raise _MethodError(methods, text)
            raise NotFoundError(unknown_name("path", prefix + path, [prefix + known for known in _PATHS]))
        return found

    def _is_proxy(self, request: Request) -> bool:
        """Whether the caller is a proxy of this cluster."""
        given = request.headers.get(model_routing.MODELS_HEADER.encode(), b"")
        return bool(self.secret) and hmac.compare_digest(given, self.secret.encode())

    async def _answer_options(self, hosts: Hosts, request: Request) -> Response:
        """The methods of the path, for any caller; reveals nothing about models."""
        if self.cors is not None and self.cors.is_preflight(request.method, request.headers):
            return self.cors.answer_preflight(request.headers)
        methods = routes.list_methods(request.path) or ["GET", "HEAD", "OPTIONS", "POST"]
        return Response(204, b"", ((b"allow", ", ".join(methods).encode()),))

    def _remember(self, method: str, path: str, found: tuple[str, routes.Handler, tuple[str, ...]]) -> None:
        if (
            len(path) <= _REMEMBERED_LENGTH
            and len(self._known) < _REMEMBERED_PATHS
            and found[2][:1]
            and found[2][0] in self.hosts.models
        ):
            self._known[method, path] = found

    def _answer_failure(self, error: Exception, request: Request) -> Response:
        if isinstance(error, MemoryError):
            error = TooLargeError("The request needs more memory than there is; send fewer rows a request")
        status = error.status if isinstance(error, RaymlopsError) else 500
        if status == 500:
            LOG.error("request %s failed: %s", request.id, error, exc_info=error)
        extra: Headers = ()
        if isinstance(error, OverloadedError | TooManyRequestsError):
            extra = ((b"retry-after", str(max(1, round(error.retry_after))).encode()),)
            if self.hosts.stopping:
                extra += ((b"connection", b"close"),)
        elif isinstance(error, AuthenticationError):
            extra = ((b"www-authenticate", b"Bearer"),)
        elif isinstance(error, _MethodError):
            extra = ((b"allow", ", ".join(error.methods).encode()),)
        told = open_inference.describe_error(error, request.id)
        told["error"] = public_address.prefix_paths(told["error"], public_address.find_prefix(request))
        return Response(status, dump_json(told), (JSON, *extra))


_TOO_LARGE = 413
"""Errors after which the rest of a body is not read."""


class _MethodError(NotFoundError):
    """`methods` are those of the path, in order."""

    status = 405

    def __init__(self, methods: Collection[str], message: str) -> None:
        super().__init__(methods, message)
        self.methods = methods

    def __str__(self) -> str:
        return str(self.args[1])


_REMEMBERED_PATHS, _REMEMBERED_LENGTH = 2048, 256
"""Number of model paths that are cached, and characters of the longest: half a megabyte."""


_PATHS = [
    "/v2",
    "/v2/models",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/repository/index",
    "/v2/models/NAME",
    "/v2/models/NAME/infer",
    "/v2/models/NAME/labels",
    "/v2/models/NAME/config",
    "/v2/models/NAME/ready",
    "/v2/models/NAME/stats",
    "/v2/models/stats",
    "/v1/models",
    "/v1/models/NAME",
    "/v1/models/NAME:predict",
    "/invocations",
    "/ping",
    "/health",
    "/version",
    "/metrics",
    "/openapi.json",
    "/docs",
]


async def _list_models(hosts: Hosts, request: Request) -> Response:
    """For proxies, which route gRPC calls by the model's name."""
    return Response(200, dump_json(list(hosts.models)))


async def _run_lifespan(receive: http.Receive, send: http.Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
        await asyncio.sleep(0)
