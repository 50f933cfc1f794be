"""Refuses callers without a key before Serve's proxy starts a replica of an application that is scaled to zero. The
data plane in the replicas checks what each key allows.

A proxy asks Serve's controller which applications have keys, and reads their key files.
"""

import asyncio
import dataclasses
import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import ray

from raymlops.errors import AuthenticationError, ForbiddenError, OverloadedError, RaymlopsError
from raymlops.serving import serve_internals
from raymlops.serving.actors import statistics_reports
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.haproxy.model_routing import ROUTE
from raymlops.serving.protocol import open_inference
from raymlops.serving.protocol.headers import JSON
from raymlops.serving.protocol.json_text import dump_json
from raymlops.serving.transport import http, routes
from raymlops.serving.transport.api_keys import KeyRing, read_entry, read_keys
from raymlops.serving.transport.cors import CorsPolicy, read_policy
from raymlops.serving.transport.http import Receive, Response, Send

LOG = logging.getLogger("raymlops.serving")
SERVICES = ("/inference.GRPCInferenceService/", "/grpc.health.v1.Health/")
_FRESH_S = 2.0
"""Seconds for which the controller's answer, and the content of a key file, are cached."""
_PROBES = dict.fromkeys(("ServerLive", "ServerReady", "Check"), b"\x08\x01")
"""Answers for an application that is scaled to zero: messages whose first field is true, or the status SERVING."""


@dataclasses.dataclass
class Application:
    """A proxy's state of an application: its keys (None allows everyone), and whether a replica runs."""

    name: str
    prefix: str
    ring: KeyRing
    awake: bool
    file: pathlib.Path | None = None
    stamp: tuple[int, int] | None = None
    cors: CorsPolicy | None = None
    ours: bool = True
    models: frozenset[str] = frozenset()
    """The models in its spec; only its replicas know those of a folder."""
    folder: bool = False

    def read_file(self) -> None:
        """Read a changed key file; if it cannot be read, the old keys stay in force."""
        if self.file is None:
            return
        try:
            status = self.file.stat()
            if self.stamp != (status.st_mtime_ns, status.st_ino):
                self.ring.replace(read_keys(self.file))
                self.stamp = (status.st_mtime_ns, status.st_ino)
        except (OSError, RaymlopsError) as error:
            LOG.error(
                "the key file of %s was not read; the keys known so far stay in force: %s", self.name, error
            )


class Applications:
    """The applications of this cluster, asked for when they are needed and the cached ones are old."""

    def __init__(self) -> None:
        self._known: dict[str, Application] = {}
        self._unread: dict[str, str] = {}
        """Why the configuration of an application could not be read, so that it is logged only once."""
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def refresh(self) -> Mapping[str, Application]:
        """By name. While the controller does not answer, the last known ones. Raises OverloadedError if there are
        none."""
        if time.monotonic() - self._asked > _FRESH_S:
            async with self._lock:
                if time.monotonic() - self._asked > _FRESH_S:
                    try:
                        await asyncio.wait_for(self._ask(), 10)
                    except (ray.exceptions.RayError, ValueError, TimeoutError) as error:
                        LOG.error("Serve's controller did not say which applications have keys: %s", error)
                        if not self._known:
                            raise OverloadedError(
                                "It is not known yet which keys are valid; try again later"
                            ) from None
        return self._known

    async def _ask(self) -> None:
        details = await serve_internals.read_instance_details()
        known, unread = {}, {}
        for name, told in (details.get("applications") or {}).items():
            before = self._known.get(name)
            try:
                found = read_application(name, told, before)
                await asyncio.to_thread(found.read_file)
            except (
                Exception
            ) as error:  # a malformed configuration of one application must not leave the others unguarded
                found, unread[name] = (
                    close_application(name, told, before),
                    f"{type(error).__name__}: {error}",
                )
                if self._unread.get(name) != unread[name]:
                    LOG.error(
                        "the keys of application %s cannot be read; those known so far stay in force: %s",
                        name,
                        unread[name],
                    )
            known[name] = found
        self._known, self._unread, self._asked = known, unread, time.monotonic()

    async def find(self, path: str) -> Application | None:
        """The application with the longest route prefix that matches this path."""
        found = None
        for application in (await self.refresh()).values():
            prefix = application.prefix.rstrip("/")
            fits = path == prefix or path.startswith(f"{prefix}/")
            if fits and (found is None or len(prefix) > len(found.prefix.rstrip("/"))):
                found = application
        return found


def read_application(name: str, told: Mapping[str, Any], before: Application | None) -> Application:
    """From the controller's details of an application; `before` is its last known state, with its keys."""
    config = told.get("deployed_app_config") or {}
    args = config.get("args") or {}
    ours = "raymlops" in str(config.get("import_path", ""))
    options = next(
        (d.get("user_config") or {} for d in config.get("deployments") or () if d.get("name") == "Ingress"),
        {},
    )
    file = pathlib.Path(args["keys"]).expanduser() if ours and args.get("keys") else None
    ring = KeyRing(required=file is not None or (ours and "keys" in options))
    stamp = None
    if ours and "keys" in options:
        ring.replace([read_entry(entry) for entry in options["keys"]])
        file = None
    elif before is not None and before.file == file:
        ring, stamp = before.ring, before.stamp
    cors = read_policy(args) if ours else None
    models = frozenset([*(args.get("models") or ()), *(args.get("graphs") or ())]) if ours else frozenset()
    folder = ours and bool(args.get("many"))
    return Application(
        name, _read_prefix(told), ring, _is_awake(told), file, stamp, cors, ours, models, folder
    )


def close_application(name: str, told: Mapping[str, Any], before: Application | None) -> Application:
    """An application of ours whose configuration cannot be read: as last known, but never open to everyone."""
    found = before or Application(name, "/", KeyRing(), False)
    ring = KeyRing(required=True) if found.ring.is_open else found.ring
    return dataclasses.replace(found, prefix=_read_prefix(told), ring=ring, awake=_is_awake(told), ours=True)


def _read_prefix(told: Mapping[str, Any]) -> str:
    return str(told.get("route_prefix") or "/")


def _is_awake(told: Mapping[str, Any]) -> bool:
    """Whether a replica of it runs."""
    ingress = (told.get("deployments") or {}).get("Ingress") or {}
    return any(str(replica.get("state")).endswith("RUNNING") for replica in ingress.get("replicas") or ())


APPLICATIONS = Applications()
RING: list[KeyRing] = []
"""The keys of this process's replica, which checks them itself; empty in a proxy."""


class KeyGuard:
    """ASGI middleware for a proxy."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if RING or scope["type"] not in ("http", "websocket") or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        try:
            refusal = await self._judge(scope)
        except OverloadedError as error:
            refusal = Response(
                503, dump_json(open_inference.describe_error(error, "")), (JSON, (b"retry-after", b"1"))
            )
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            is_head = scope["method"] == "HEAD"
            await http.send_response(send, refusal, ((b"connection", b"close"),), head_only=is_head)

    async def _judge(self, scope: Any) -> Response | None:
        """The immediate answer to this caller; None lets the request through."""
        application = await APPLICATIONS.find(scope["path"])
        if application is None:
            return None
        path = scope["path"][len(application.prefix.rstrip("/")) :] or "/"
        is_asleep = application.ours and not application.awake
        if is_asleep and path == "/metrics" and scope["type"] == "http":
            response = await _tell_metrics(application, scope, path)
            if response is not None:
                return response
        if application.ring.is_open:
            return None
        if scope["type"] == "websocket":  # no application of ours answers these
            return Response(403, b"")
        headers, cors = dict(scope["headers"]), application.cors
        shared = () if cors is None else cors.list_headers(headers)
        request_id = headers.get(b"x-request-id", b"")[:128].decode("latin-1")
        # browsers send no key with a preflight request
        if cors is not None and cors.is_preflight(scope["method"], headers):
            try:
                told = cors.answer_preflight(headers)
            except ForbiddenError as error:
                told = Response(403, dump_json(open_inference.describe_error(error, request_id)))
            return Response(told.status, told.body, told.headers + shared)
        found = routes.find_route(scope["method"], path)
        if found is not None and not found[0] and application.awake:
            return None  # a health probe
        try:
            application.ring.identify(http.Request(scope["method"], path, headers, "").token)
        except AuthenticationError as error:
            if found is not None and not found[0]:
                return Response(
                    200, dump_json({"live": True, "ready": True, "status": "alive"})
                )  # callers with a key will wake it
            refused = dump_json(open_inference.describe_error(error, request_id))
            return Response(401, refused, (JSON, (b"www-authenticate", b"Bearer"), *shared))
        return None


async def _tell_metrics(application: Application, scope: Any, path: str) -> Response | None:
    """The known state of a sleeping application, which metrics scrapers must not keep awake; None for callers without
    a key."""
    request = http.Request(scope["method"], path, dict(scope["headers"]), "")
    if request.method not in ("GET", "HEAD"):
        return None
    hosts = Hosts(application.name, {}, statistics=statistics_reports.AsleepStatistics(application.name))
    try:
        request.caller = application.ring.admit(request.token, "metrics")
        return await routes.metrics(hosts, request)
    except AuthenticationError:
        return None
    except ForbiddenError as error:
        return Response(403, dump_json(open_inference.describe_error(error, "")), (JSON,))


def guard_grpc(server: Any) -> bool:
    """In a proxy, before Serve registers its services on this server: checks calls of the protocol first, by their
    metadata. False if this Serve differs from the known ones. A replica's data plane checks them itself."""
    if RING:
        return True

    def make(override: Any) -> Any:
        def override_and_check(service_method: str, method_handler: Any) -> Any:
            handler = override(service_method, method_handler)
            service = next((service for service in SERVICES if service_method.startswith(service)), None)
            if service is None:
                return handler
            method = service_method[len(service) :]
            streams = {
                kind: _judge_stream(getattr(handler, kind), method)
                for kind in ("unary_stream", "stream_stream")
            }
            return handler._replace(unary_unary=_judge_first(handler.unary_unary, method), **streams)

        return override_and_check

    return serve_internals.replace_method_handlers(server, make)


class _RoutedContext:
    """A call's context whose metadata name the application."""

    def __init__(self, context: Any, metadata: tuple[tuple[str, Any], ...]) -> None:
        self._context, self._metadata = context, metadata

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        return self._metadata

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _judge_first(answer: Any, method: str) -> Any:
    async def judge(message: Any, context: Any) -> Any:
        routed = await _judge_call(method, message, context)
        return routed if isinstance(routed, bytes) else await answer(message, routed)

    return judge


def _judge_stream(answer: Any, method: str) -> Any:
    async def judge(messages: Any, context: Any) -> Any:
        # Messages of a stream may be for several applications: the replicas relay those of others.
        routed = await _judge_call(method, messages if isinstance(messages, bytes) else b"", context)
        async for response in answer(messages, routed):
            yield response

    return judge


async def _judge_call(method: str, message: bytes, context: Any) -> Any:
    """The context to continue with, or an answer. Ends the call of a caller without a key."""
    import grpc

    from raymlops.serving.transport import grpc_service

    metadata = tuple(context.invocation_metadata() or ())
    sent = dict(metadata)
    try:
        known = await APPLICATIONS.refresh()
        application, route = choose_application(known, method, message, sent)
        if application is not None and (method not in _PROBES or not application.awake):
            # A running replica relays calls for other applications; a sleeping one is woken by its own callers only.
            shared = route == "any" and application.awake
            rings = [other.ring for other in known.values() if other.ours] if shared else [application.ring]
            _identify_by_any(rings, grpc_service.read_token(sent))
    except AuthenticationError as error:
        if method in _PROBES:
            return _PROBES[method]
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
    except OverloadedError as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
    if application is None or not route:
        return context
    kept = tuple(pair for pair in metadata if pair[0] not in ("application", ROUTE))
    return _RoutedContext(context, (*kept, ("application", application.name), (ROUTE, route)))


def _identify_by_any(rings: list[KeyRing], token: str) -> None:
    """Raises the last AuthenticationError if none of them knows the key."""
    for at, ring in enumerate(rings, 1):
        try:
            ring.identify(token)
            return
        except AuthenticationError:
            if at == len(rings):
                raise


def choose_application(
    known: Mapping[str, Application], method: str, message: bytes, sent: Mapping[str, Any]
) -> tuple[Application | None, str]:
    """The application of a call, and how it was found, see `ROUTE`; empty if the caller named one."""
    from raymlops.serving.protocol.grpc_message import find_model

    named = known.get(str(sent.get("application", "")))
    if "application" in sent and ROUTE not in sent:
        return named, ""
    if named is not None and sent.get(ROUTE) == "model":  # HAProxy found it, and none of its replicas runs
        return named, "model"
    if len(known) == 1:
        return next(iter(known.values())), "only"
    ours = [known[name] for name in sorted(known) if known[name].ours]
    model = find_model(method, message)
    owners = [application for application in ours if model and model in application.models]
    if len(owners) == 1:
        return owners[0], "model"
    return next((application for application in ours if application.awake), ours[0] if ours else None), "any"
