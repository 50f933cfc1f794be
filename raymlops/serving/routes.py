"""What each path answers: a table of patterns, roles and handlers over the hosted models. Knows no ASGI and
no Ray."""

import asyncio
import dataclasses
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from raymlops import __version__
from raymlops.errors import (
    DeadlineError,
    ForbiddenError,
    InputError,
    NotFoundError,
    OverloadedError,
    unknown_name,
)
from raymlops.serving import codec, invocations, openapi, protocol, statistics
from raymlops.serving.columns import Column
from raymlops.serving.http import JSON, Headers, Request, Response
from raymlops.serving.keys import Key
from raymlops.serving.statistics import Sample, Statistics
from raymlops.tensors import Batch


class Repository(Protocol):
    """What loads and unloads models on demand, where an application has such a thing."""

    async def load(self, name: str) -> None: ...

    async def unload(self, name: str) -> None: ...

    def samples(self) -> Iterable[Sample]: ...


@dataclasses.dataclass(slots=True)
class Hosted:
    """A model under its name, with all that is worked out once."""

    name: str
    endpoint: protocol.Endpoint
    statistics: Statistics
    columns: Mapping[str, Column]
    platform: str = "onnxruntime_onnx"
    ready: bool = True
    check: Callable[[], None] | None = None
    loaded: Callable[[], bool] | None = None
    """Whether a model that is loaded on demand is in memory now; only the index asks."""
    headers: Headers = ()
    binary_headers: Headers = ()

    def __post_init__(self) -> None:
        stamp = (b"x-model-version", f"{self.name}/{self.endpoint.version}".encode())
        self.headers = (JSON, stamp)
        self.binary_headers = ((b"content-type", b"application/octet-stream"), stamp)


@dataclasses.dataclass(slots=True)
class Hosts:
    """Everything the handlers need: the models by name, and the limits of a request."""

    name: str
    models: dict[str, Hosted]
    limits: codec.JsonLimits = dataclasses.field(default_factory=codec.JsonLimits)
    repository: Repository | None = None
    queue: int = 128
    """Requests that may be here at once; more are told to come back."""
    pending: int = 0

    def samples(self) -> Iterator[Sample]:
        """All that this replica counts."""
        for hosted in self.models.values():
            yield from hosted.statistics.samples()
        if self.repository is not None:
            yield from self.repository.samples()
        yield "nv_inference_pending_request_count", (), self.pending

    def find(self, name: str, version: str = "") -> Hosted:
        hosted = self.models.get(name)
        if hosted is None:
            raise NotFoundError(unknown_name("model", name, self.models))
        if version and version != hosted.endpoint.version:
            raise NotFoundError(unknown_name(f"version of {name!r}:", version, [hosted.endpoint.version]))
        return hosted

    def seen_by(self, caller: Key) -> Mapping[str, Hosted]:
        """The models that a key is for."""
        if not caller.models:
            return self.models
        return {name: hosted for name, hosted in self.models.items() if caller.sees(name)}

    def count_failure(self, name: str, started: int) -> None:
        """A request for this model, if there is one of this name, got no answer; `started` in nanoseconds."""
        hosted = self.models.get(name)
        if hosted is not None:
            hosted.statistics.record_failure(time.perf_counter_ns() - started)

    def enter(self, parts: Sequence[str]) -> None:
        """Count a request in, for the model named first if one is. Raises OverloadedError where it is full."""
        if self.pending >= self.queue:
            hosted = self.models.get(parts[0]) if parts else None
            if hosted is not None:
                hosted.statistics.refused += 1
            raise OverloadedError(f"{self.queue} requests are already here; try again later")
        self.pending += 1


async def infer(hosts: Hosts, request: Request) -> Response:
    hosted = hosts.find(*request.parts)
    request.model = hosted.name
    length = request.headers.get(b"inference-header-content-length")
    if length is not None and not length.isdigit():
        raise InputError("Inference-Header-Content-Length must be a whole number")
    header_length = None if length is None else int(length[:20])
    signature = hosted.endpoint.signature
    decoded = codec.decode_infer(request.body, header_length, hosted.columns, signature, hosts.limits)
    answer = await _run(hosted, decoded.batch, request, decoded.parameters)
    version = hosted.endpoint.version
    body, json_length = codec.encode_infer(answer, decoded, hosted.name, version, signature)
    if json_length is None:
        return Response(200, body, hosted.headers)
    lengths = (b"inference-header-content-length", str(json_length).encode())
    return Response(200, body, (*hosted.binary_headers, lengths))


async def _run(hosted: Hosted, batch: Batch, request: Request, parameters: Mapping[str, Any]) -> Batch:
    for array in batch.values():
        request.rows = len(array) if array.ndim else 1
        break
    return await ask(hosted, batch, _sticky(request), parameters, request.started)


async def ask(
    hosted: Hosted, batch: Batch, key: str | None, parameters: Mapping[str, Any], started: int
) -> Batch:
    """The endpoint's answer, counted; `timeout` in microseconds is the parameter that Triton's clients
    send. What fails is counted where it is turned into a response."""
    if not hosted.ready:
        raise NotFoundError(
            f"Model {hosted.name!r} is not loaded; POST /v2/repository/models/{hosted.name}/load"
        )
    timeout = parameters.get("timeout")
    try:
        if isinstance(timeout, int | float) and 0 < timeout < math.inf:
            async with asyncio.timeout(timeout / 1e6):
                answer = await hosted.endpoint.infer(batch, key=key)
        else:
            answer = await hosted.endpoint.infer(batch, key=key)
    except TimeoutError:
        raise DeadlineError(f"{hosted.name!r} did not answer within the {timeout} us asked for") from None
    hosted.statistics.record_success(time.perf_counter_ns() - started)
    return answer


def _sticky(request: Request) -> str | None:
    """What keeps a caller on one branch of a split: its own word, or else its API key."""
    word = request.headers.get(b"x-request-key")
    return word.decode("latin-1") if word else request.key or None


async def invoke(hosts: Hosts, request: Request) -> Response:
    if request.parts:
        hosted = hosts.find(*request.parts)
    elif len(hosts.models) == 1:
        hosted = next(iter(hosts.models.values()))
    else:
        raise InputError(
            f"Several models are served; say which: POST /invocations/NAME with one of "
            f"{', '.join(hosts.models)}"
        )
    request.model = hosted.name
    batch, parameters = invocations.decode_invocations(
        request.body, request.content_type, hosted.columns, hosts.limits
    )
    answer = await _run(hosted, batch, request, parameters if isinstance(parameters, Mapping) else {})
    document = invocations.encode_predictions(answer, hosted.endpoint.signature)
    return Response(200, codec.dump_json(document), hosted.headers)


def _answer(document: Any, status: int = 200) -> Response:
    return Response(status, codec.dump_json(document))


async def live(hosts: Hosts, request: Request) -> Response:
    return _answer({"live": True})


async def ready(hosts: Hosts, request: Request) -> Response:
    is_ready = all(hosted.ready for hosted in hosts.models.values())
    return _answer({"ready": is_ready}, 200 if is_ready else 503)


async def server(hosts: Hosts, request: Request) -> Response:
    return _answer(protocol.describe_server(hosts.name, __version__))


async def model(hosts: Hosts, request: Request) -> Response:
    hosted = hosts.find(*request.parts)
    endpoint = hosted.endpoint
    return _answer(
        protocol.describe_model(hosted.name, endpoint.version, endpoint.signature, hosted.platform)
    )


async def model_ready(hosts: Hosts, request: Request) -> Response:
    hosted = hosts.find(*request.parts)
    return _answer({"name": hosted.name, "ready": hosted.ready}, 200 if hosted.ready else 503)


async def stats(hosts: Hosts, request: Request) -> Response:
    wanted = [hosts.find(*request.parts)] if request.parts else list(hosts.seen_by(request.caller).values())
    return _answer({"model_stats": [hosted.statistics.to_json() for hosted in wanted]})


async def index(hosts: Hosts, request: Request) -> Response:
    wants_ready = b'"ready"' in request.body and b"true" in request.body
    states = {
        name: (hosted.endpoint.version, hosted.ready and (hosted.loaded is None or hosted.loaded()))
        for name, hosted in hosts.seen_by(request.caller).items()
    }
    if wants_ready:
        states = {name: state for name, state in states.items() if state[1]}
    return _answer(protocol.describe_index(states))


async def list_models(hosts: Hosts, request: Request) -> Response:
    return _answer({"models": list(hosts.seen_by(request.caller))})


async def load(hosts: Hosts, request: Request) -> Response:
    await _repository(hosts).load(request.parts[0])
    return _answer({})


async def unload(hosts: Hosts, request: Request) -> Response:
    await _repository(hosts).unload(request.parts[0])
    return _answer({})


def _repository(hosts: Hosts) -> Repository:
    if hosts.repository is None:
        raise InputError("This application serves a fixed set of models; change its spec and deploy it again")
    return hosts.repository


async def metrics(hosts: Hosts, request: Request) -> Response:
    if request.caller.models:  # the counters are those of all
        raise ForbiddenError(
            f"Key {request.key!r} is for {', '.join(request.caller.models)} only; /metrics counts all models"
        )
    text = statistics.to_prometheus(hosts.samples())
    return Response(200, text, ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),))


async def version(hosts: Hosts, request: Request) -> Response:
    return Response(200, __version__.encode(), ((b"content-type", b"text/plain; charset=utf-8"),))


async def document(hosts: Hosts, request: Request) -> Response:
    return _answer(openapi.describe(hosts.name, _described(hosts, request)))


async def docs(hosts: Hosts, request: Request) -> Response:
    page = openapi.render_page(openapi.describe(hosts.name, _described(hosts, request)))
    return Response(200, page.encode(), ((b"content-type", b"text/html; charset=utf-8"),))


def _described(hosts: Hosts, request: Request) -> list[openapi.Described]:
    return [
        openapi.Described(
            hosted.name,
            hosted.endpoint.version,
            hosted.endpoint.signature,
            {name: column.kind for name, column in hosted.columns.items()},
        )
        for hosted in hosts.seen_by(request.caller).values()
    ]


Handler = Callable[[Hosts, Request], Awaitable[Response]]

_MODEL = r"/v2/models/([^/]+)(?:/versions/([^/]+))?"
ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", _MODEL + "/infer", "infer", infer),
    ("POST", "/invocations(?:/([^/]+))?", "infer", invoke),
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
    ("POST", "/v2/repository/index", "view", index),
    ("POST", "/v2/repository/models/([^/]+)/load", "admin", load),
    ("POST", "/v2/repository/models/([^/]+)/unload", "admin", unload),
    ("GET", "/metrics", "metrics", metrics),
    ("GET", "/openapi.json", "view", document),
    ("GET", "/docs", "view", docs),
)
"""Method, pattern, role of the key, handler. No role is for probes, which ask no key; a first group of the pattern
is the model, which the key must be for."""

LIMITED = frozenset({"infer", "view", "ready"})
"""Roles whose requests count against the rate of a key and the queue of a replica."""

COMPILED = tuple((method, re.compile(pattern), role, handler) for method, pattern, role, handler in ROUTES)


def find_route(method: str, path: str) -> tuple[str, Handler, tuple[str, ...]] | set[str]:
    """Role, handler and what the pattern matched; or the methods that the path has, none when there is no
    such path."""
    methods = set()
    for want, pattern, role, handler in COMPILED:
        found = pattern.fullmatch(path)
        if found is None:
            continue
        if want == method or (method == "HEAD" and want == "GET"):
            return role, handler, tuple(part for part in found.groups() if part is not None)
        methods.add(want)
    return methods
