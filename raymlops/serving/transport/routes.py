"""Routes: a table of patterns, roles and handlers over the hosted models. Imports neither ASGI nor Ray."""

import gzip
import re
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from prometheus_client.exposition import gzip_accepted

from raymlops import __version__
from raymlops.errors import ForbiddenError, InputError
from raymlops.serving.endpoints.example_search import find_example, find_shape
from raymlops.serving.endpoints.hosted import Hosted, Hosts, Repository
from raymlops.serving.endpoints.model_config import describe_config
from raymlops.serving.endpoints.statistics import describe
from raymlops.serving.protocol import open_inference, openapi, server_settings
from raymlops.serving.protocol.headers import JSON
from raymlops.serving.protocol.json_text import dump_json, parse_json
from raymlops.serving.protocol.request_limits import show
from raymlops.serving.transport import public_address
from raymlops.serving.transport.api_keys import Key
from raymlops.serving.transport.http import Request, Response
from raymlops.serving.transport.inference import infer, invoke, predict, run_large


def _answer(document: Any, status: int = 200) -> Response:
    return Response(status, dump_json(document))


_MANY = 100
"""Number of models above which a document is made in a thread."""


async def _make(hosts: Hosts, make: Callable[[], Response]) -> Response:
    """A description of all models, whose parts do not change while they are served."""
    return make() if len(hosts.models) <= _MANY else await run_large(hosts, make)


async def live(hosts: Hosts, request: Request) -> Response:
    return _answer({"live": True})


async def ready(hosts: Hosts, request: Request) -> Response:
    is_ready = all(hosted.ready for hosted in hosts.models.values())
    return _answer({"ready": is_ready}, 200 if is_ready else 503)


async def server(hosts: Hosts, request: Request) -> Response:
    return _answer(open_inference.describe_server(hosts.name, __version__))


async def model(hosts: Hosts, request: Request) -> Response:
    return _answer(describe_hosted(hosts.find(*request.parts)))


def describe_hosted(hosted: Hosted) -> dict[str, Any]:
    """The metadata of a model, in the protocol's form."""
    endpoint = hosted.endpoint
    return open_inference.describe_model(
        hosted.name,
        endpoint.version,
        endpoint.signature,
        hosted.platform,
        hosted.statistics.sharing,
        hosted.optional,
        hosted.explanation,
    )


async def model_ready(hosts: Hosts, request: Request) -> Response:
    if request.parts[0] in hosts.unavailable:
        reason = hosts.unavailable[request.parts[0]]
        return _answer({"name": request.parts[0], "ready": False, "reason": reason}, 503)
    hosted = hosts.find(*request.parts)
    can = hosted.can_answer
    return _answer({"name": hosted.name, "ready": can}, 200 if can else 503)


async def stats(hosts: Hosts, request: Request) -> Response:
    wanted = [hosts.find(*request.parts)] if request.parts else list(hosts.seen_by(request.caller).values())
    replicas, counted = await hosts.sum_up(wanted)
    return await _make(
        hosts,
        lambda: _answer({"model_stats": [describe(*one) | {"replicas": replicas} for one in counted]}),
    )


async def index(hosts: Hosts, request: Request) -> Response:
    wants_ready = _read_object(hosts, request).get("ready", False)
    if not isinstance(wants_ready, bool):
        raise InputError(f'"ready" must be true or false, got {show(wants_ready)}')
    return _answer(await list_index(hosts, request.caller, ready_only=wants_ready))


async def list_index(hosts: Hosts, caller: Key, ready_only: bool) -> list[dict[str, str]]:
    """The entries of the repository index that a key may see, including models that cannot be served; `ready_only`
    leaves out those that are not in memory."""
    if hosts.repository is not None:
        await hosts.repository.refresh()
    states = {
        name: (
            hosted.endpoint.version,
            hosted.ready and (hosted.loaded is None or hosted.loaded()),
            hosted.reason() if hosted.reason is not None else "",
        )
        for name, hosted in hosts.seen_by(caller).items()
    }
    states |= {name: ("1", False, reason) for name, reason in hosts.unavailable.items() if caller.sees(name)}
    if ready_only:
        states = {name: state for name, state in states.items() if state[1]}
    return open_inference.describe_index(states)


async def config(hosts: Hosts, request: Request) -> Response:
    return _answer(describe_config(hosts.find(*request.parts), hosts.limits))


async def labels(hosts: Hosts, request: Request) -> Response:
    """Labels of earlier requests, which join what was captured."""
    hosted = hosts.find(*request.parts)
    if hosts.labels is None:
        raise InputError(
            "This application captures no requests, so that labels have nothing to join; add capture to its spec, "
            "such as capture: {share: 1}, and deploy it again"
        )
    return _answer(await hosts.labels.take(hosted.name, request.body))


async def list_models(hosts: Hosts, request: Request) -> Response:
    """For both versions of the protocol."""
    return _answer({"models": list(hosts.seen_by(request.caller))})


async def alive(hosts: Hosts, request: Request) -> Response:
    return _answer({"status": "alive"})


async def load(hosts: Hosts, request: Request) -> Response:
    parameters = _read_object(hosts, request).get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InputError('"parameters" must be an object')
    server_settings.check_load_parameters(list(parameters))
    await find_repository(hosts).load(request.parts[0])
    return _answer({})


async def unload(hosts: Hosts, request: Request) -> Response:
    await find_repository(hosts).unload(request.parts[0])
    return _answer({})


def find_repository(hosts: Hosts) -> Repository:
    """Raises InputError if the set of models is fixed."""
    if hosts.repository is None:
        raise InputError("This application serves a fixed set of models; change its spec and deploy it again")
    return hosts.repository


async def trace_setting(hosts: Hosts, request: Request) -> Response:
    if request.parts:
        hosts.find(*request.parts)
    if request.method == "POST":
        server_settings.refuse_trace(_read_object(hosts, request))
    return _answer(server_settings.describe_trace())


async def logging(hosts: Hosts, request: Request) -> Response:
    if request.method == "POST":
        server_settings.refuse_log(_read_object(hosts, request))
    return _answer(dict(server_settings.LOG_SETTINGS))


async def register(hosts: Hosts, request: Request) -> NoReturn:
    server_settings.refuse_shared_memory()


async def list_shared_memory(hosts: Hosts, request: Request) -> Response:
    return _answer([])


async def unregister(hosts: Hosts, request: Request) -> Response:
    """None can be registered, so unregistering all does nothing."""
    return _answer({})


def _read_object(hosts: Hosts, request: Request) -> dict[str, Any]:
    """The body, a JSON object; an empty body is an empty one. Raises InputError."""
    given = parse_json(request.body, hosts.limits) if request.body else {}
    if not isinstance(given, dict):
        raise InputError("The body must be a JSON object")
    return given


async def metrics(hosts: Hosts, request: Request) -> Response:
    if request.caller.models:  # the counters are those of all models
        raise ForbiddenError(
            f"Key {request.key!r} is for {', '.join(request.caller.models)} only; /metrics counts all models"
        )
    text, kind = await hosts.render_metrics(request.header("accept"))
    headers: tuple[tuple[bytes, bytes], ...] = (
        (b"content-type", kind.encode()),
        (b"vary", b"Accept-Encoding"),
    )
    if gzip_accepted(request.header("accept-encoding")):
        text = await run_large(hosts, lambda: gzip.compress(text, 1))
        headers += ((b"content-encoding", b"gzip"),)
    return Response(200, text, headers)


async def version(hosts: Hosts, request: Request) -> Response:
    return Response(200, __version__.encode(), ((b"content-type", b"text/plain; charset=utf-8"),))


async def document(hosts: Hosts, request: Request) -> Response:
    described = await _describe_models(hosts, request)

    def describe() -> Response:
        return Response(200, dump_json(_describe(hosts, request, described)), (JSON, _NOT_STORED))

    return await _make(hosts, describe)


async def docs(hosts: Hosts, request: Request) -> Response:
    headers = ((b"content-type", b"text/html; charset=utf-8"), _NOT_STORED)
    described = await _describe_models(hosts, request)

    def render() -> Response:
        told = _describe(hosts, request, described)
        page = openapi.render_page(told, described, public_address.find_origin(request))
        return Response(200, page.encode(), headers)

    return await _make(hosts, render)


_NOT_STORED = (b"cache-control", b"no-store")
"""An answer that contains the caller's own address must not be cached for other callers."""


def _describe(hosts: Hosts, request: Request, described: list[openapi.Described]) -> dict[str, Any]:
    prefix = public_address.find_prefix(request)
    loads, labels = hosts.repository is not None, hosts.labels is not None
    return openapi.describe(hosts.name, described, prefix, loads=loads, labels=labels)


async def _describe_models(hosts: Hosts, request: Request) -> list[openapi.Described]:
    described = []
    for hosted in hosts.seen_by(request.caller).values():
        example, endpoint = await find_example(hosted), hosted.endpoint
        shape = example.shape if example is not None else find_shape(hosted)
        described.append(
            openapi.Described(
                hosted.name, endpoint.version, endpoint.signature, hosted.columns, shape, example
            )
        )
    return described


Handler = Callable[[Hosts, Request], Awaitable[Response]]

_SHARED = "/v2/(?:system|cuda)sharedmemory"
_MODEL = r"/v2/models/([^/]+)(?:/versions/([^/]+))?"
ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", _MODEL + "/infer", "infer", infer),
    ("POST", "/invocations(?:/([^/]+))?", "infer", invoke),
    ("POST", "/v1/models/([^/]+):predict", "infer", predict),
    ("POST", _MODEL + "/labels", "label", labels),
    ("GET", "/", "", alive),
    ("GET", "/v2/health/live", "", live),
    ("GET", "/v2/health/ready", "", ready),
    ("GET", "/ping", "", ready),
    ("GET", "/health", "", ready),
    ("GET", "/version", "", version),
    ("GET", "/v2/?", "view", server),
    ("GET", "/v2/models/?", "view", list_models),
    ("GET", "/v2/models/stats", "view", stats),
    ("GET", _MODEL, "view", model),
    ("GET", _MODEL + "/ready", "ready", model_ready),
    ("GET", _MODEL + "/stats", "view", stats),
    ("GET", _MODEL + "/config", "view", config),
    ("GET", "/v1/models/?", "view", list_models),
    ("GET", "/v1/models/([^/:]+)", "ready", model_ready),
    ("POST", "/v2/repository/index", "view", index),
    ("POST", "/v2/repository/models/([^/]+)/load", "admin", load),
    ("POST", "/v2/repository/models/([^/]+)/unload", "admin", unload),
    ("GET", "/v2/trace/setting", "view", trace_setting),
    ("POST", "/v2/trace/setting", "view", trace_setting),
    ("GET", _MODEL + "/trace/setting", "view", trace_setting),
    ("POST", _MODEL + "/trace/setting", "view", trace_setting),
    ("GET", "/v2/logging", "view", logging),
    ("POST", "/v2/logging", "view", logging),
    ("GET", _SHARED + "(?:/region/[^/]+)?/status", "view", list_shared_memory),
    ("POST", _SHARED + "/region/[^/]+/register", "view", register),
    ("POST", _SHARED + "(?:/region/[^/]+)?/unregister", "view", unregister),
    ("GET", "/metrics", "metrics", metrics),
    ("GET", "/openapi.json", "view", document),
    ("GET", "/docs", "view", docs),
)
"""Method, pattern, role of the key, handler. No role is for probes, which need no key; the first group of a pattern
is the model, which the key must allow."""

LIMITED = frozenset({"infer", "label", "view", "ready"})
"""Roles whose requests count against the rate of a key and the queue of a replica."""

COMPILED = tuple((method, re.compile(pattern), role, handler) for method, pattern, role, handler in ROUTES)


def find_route(method: str, path: str) -> tuple[str, Handler, tuple[str, ...]] | None:
    """Role, handler and matched groups; a slash at the end of the path makes no difference."""
    wanted = "GET" if method == "HEAD" else method
    for want, pattern, role, handler in COMPILED:
        if want == wanted and (found := pattern.fullmatch(_without_slash(path))):
            return role, handler, tuple(part for part in found.groups() if part is not None)
    return None


def list_methods(path: str) -> list[str]:
    """Methods of the path, in order; empty if there is no such path."""
    methods = {want for want, pattern, _, _ in COMPILED if pattern.fullmatch(_without_slash(path))}
    return sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())) if methods else []


def _without_slash(path: str) -> str:
    return path[:-1] if path.endswith("/") and len(path) > 1 else path
